"""Security checks taken out or weakened one by one: is each found by a test?"""
