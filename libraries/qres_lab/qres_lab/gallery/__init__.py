"""The attack gallery: every attack against nothing, against single defences, and the full stack."""
