"use strict";
const EVERY = 1500;
const at = (id) => document.getElementById(id);
const put = (id, text) => { const e = at(id); if (e.textContent !== text) e.textContent = text; };
const percent = (x) => (100 * x).toFixed(1) + " %";
const short = (hex) => hex.slice(0, 12);
const clock = (seconds) => new Date(1000 * seconds).toLocaleTimeString();

/* Everything from the node is put on the page as text, never as markup. */
function table(id, head, rows, empty) {
  const body = document.createElement("tbody"), top = document.createElement("thead");
  const line = document.createElement("tr");
  for (const [name, number] of head) {
    const cell = document.createElement("th");
    cell.textContent = name; cell.scope = "col"; if (number) cell.className = "number";
    line.append(cell);
  }
  top.append(line);
  for (const row of rows) {
    const made = document.createElement("tr");
    row.forEach((value, index) => {
      const cell = document.createElement("td");
      if (value instanceof Node) cell.append(value);
      else if (Array.isArray(value)) { cell.textContent = value[0]; cell.className = value[1]; }
      else cell.textContent = value;
      if (head[index][1]) cell.classList.add("number");
      made.append(cell);
    });
    body.append(made);
  }
  if (!rows.length) {
    const made = document.createElement("tr"), cell = document.createElement("td");
    cell.colSpan = head.length; cell.className = "dim"; cell.textContent = empty;
    made.append(cell); body.append(made);
  }
  at(id).replaceChildren(top, body);
}

function chart(history) {
  const name = history.some((one) => "accuracy" in one.metrics) ? "accuracy" : "loss";
  const made = history.filter((one) => one.closed && name in one.metrics);
  put("chart-title", (name === "accuracy" ? "Accuracy" : "Loss") + " by round");
  const values = made.map((one) => one.metrics[name]);
  const low = name === "accuracy" ? 0 : Math.min(...values, 0), high = name === "accuracy" ? 1 : Math.max(...values, 0) || 1;
  const x = (i) => values.length < 2 ? 0 : 100 * i / (values.length - 1);
  const y = (v) => 98 - 96 * (v - low) / (high - low || 1);
  const points = values.map((v, i) => x(i).toFixed(2) + " " + y(v).toFixed(2));
  const path = points.length ? "M" + points.join("L") : "";
  at("chart").querySelector(".line").setAttribute("d", points.length === 1 ? path + "H100" : path);
  at("chart").querySelector(".area").setAttribute("d", points.length > 1 ? path + "V100H0Z" : "");
  const show = (v) => name === "accuracy" ? percent(v) : v.toPrecision(4);
  put("range", values.length ? "rounds " + made[0].round + " to " + made[made.length - 1].round +
    ", from " + show(values[0]) + " to " + show(values[values.length - 1]) : "no figures yet");
}

function figure(metrics) {
  if ("accuracy" in metrics) return percent(metrics.accuracy);
  if ("loss" in metrics) return "loss " + metrics.loss.toPrecision(4);
  return "–";
}

function standing(member) {
  if (member.banned_by_all) return ["banned by all", "bad"];
  if (member.banned) return ["banned", "bad"];
  const meter = document.createElement("meter");
  meter.min = 0; meter.max = 1; meter.value = member.standing;
  meter.title = meter.textContent = member.standing.toFixed(2);
  const both = document.createElement("span");
  both.append(meter, " " + member.standing.toFixed(2) + (member.silent ? ", long silent" : ""));
  return both;
}

function show(said) {
  put("figure", figure(said.metrics));
  put("figure-name", ("accuracy" in said.metrics ? "accuracy here" : "figure")
    + (said.metrics_step === null ? "" : ", model " + said.metrics_step));
  const lengths = said.history.filter((one) => one.closed).slice(-10).map((one) => one.seconds);
  put("pace", lengths.length ? (lengths.reduce((a, b) => a + b) / lengths.length).toPrecision(3) : "–");
  const lost = said.vanished || null;
  at("vanished").hidden = lost === null;
  if (lost !== null) {
    put("vanished-what", lost.updates + " so far: " + lost.text);
    put("vanished-fix", lost.fix || "");
  }
  const wrong = said.trainer_error || null;
  at("trouble").hidden = wrong === null;
  if (wrong !== null) {
    put("trouble-what", wrong.method + ", round " + wrong.round + ": " + wrong.error);
    put("trouble-where", (wrong.file ? wrong.file + ", line " + wrong.line + "; " : "")
      + "last at " + clock(wrong.at) + "; the traceback is in the node's log");
  }
  put("rounds-name", "rounds closed / void / aborted"
    + (said.rounds.nothing_new ? ", nothing new in " + said.rounds.nothing_new : ""));
  put("rounds", said.rounds.closed + " / " + said.rounds.void + " / " + said.rounds.aborted);
  put("privacy", said.privacy === null ? "–" : "ε " + Number(said.privacy.epsilon).toPrecision(3)
    + ("epsilon_budget" in said.privacy ? " of " + said.privacy.epsilon_budget : ""));
  chart(said.history);
  table("history", [["round", 1], ["height", 1], ["outcome"], ["in it", 1], ["figure", 1], ["model"], ["seconds", 1], ["at"]],
    said.history.slice(-40).reverse().map((one) => [String(one.round), String(one.height),
      one.closed ? [one.reason || "closed", "good reason"] : [(one.void ? "void: " : "aborted: ") + one.reason, "warn reason"],
      String(one.members), one.closed ? figure(one.metrics) : "", [short(one.model_digest), "mono"],
      one.seconds.toFixed(1), clock(one.at)]),
    "none yet");
  table("connections", [["at"], ["what"], ["peer"], ["detail"]],
    said.connections.slice().reverse().map((one) => [clock(one.at),
      [one.change, one.change === "up" ? "good" : one.change === "down" ? "dim" : "bad"],
      [one.peer ? short(one.peer) : "", "mono"],
      [(one.reason ? one.reason.replaceAll("_", " ") + ": " : "") + one.detail, "reason"]]), "none yet");
  table("links", [["peer"], ["why"], ["times", 1], ["last at"], ["detail"]],
    said.links.map((one) => [[one.peer ? short(one.peer) : "strangers", "mono"],
      [one.reason.replaceAll("_", " "), "warn"], String(one.count), clock(one.at),
      [one.detail, "reason"]]), "none");
  const roster = said.roster || null;
  put("roster", roster === null ? "" : "roster " + roster.epoch + ", " + short(roster.digest)
    + "; " + roster.threshold + " members must sign");
  table("changes", [["what"], ["member"], ["signed", 1]],
    roster === null ? [] : roster.waiting.map((one) => [[one.action, ""],
      [short(one.member) + (one.successor ? " → " + short(one.successor) : ""), "mono"],
      one.approved ? "approved" : String(one.signed)])
      .concat(Object.entries(roster.problems).map(([name, why]) => [[why, "reason"], [name, "warn"], ""])),
    "none waits");
  put("foot", "qres " + said.qres + ", started " + new Date(1000 * said.started).toLocaleString());
  if (said.state !== "running") return;
  const name = said.node.name || short(said.node.id);
  put("title", said.swarm.name + " · " + name);
  put("who", said.node.id);
  document.title = name + " of " + said.swarm.name + " – QRES";
  put("round", String(said.round));
  put("round-name", "round" + (said.begins_at === null ? "" : ", begins " + clock(said.begins_at)));
  table("plugins", [["plugin"], ["of"]],
    said.plugins.map((plugin) => [plugin, [said.versions[plugin], "dim"]]), "none");
  put("step", String(said.step));
  put("height", String(said.height));
  put("head", "height, head " + short(said.head));
  put("bound", said.swarm.nodes + " members, " + said.swarm.byzantine + " may lie, quorum " + said.swarm.quorum
    + (said.removed ? "; this node is none any more" : ""));
  put("peers", said.peers.length + " of " + (said.swarm.nodes - 1));
  table("members", [["member"], ["connected"], ["last heard", 1], ["standing"], ["contributed", 1]],
    said.members.map((one) => [[short(one.id), "mono"],
      one.self ? [said.node.name || "this node", "dim"] : one.connected ? ["yes", "good"]
        : ["no" + (one.next_dial_seconds == null ? "" : ", dialled in " + Math.ceil(one.next_dial_seconds) + " s"), "warn"],
      one.last_heard_seconds == null ? "" : Math.round(one.last_heard_seconds) + " s ago",
      standing(one), String(one.contributed)]), "none");
  table("rejections", [["reason"], ["count", 1]],
    Object.entries(said.rejections).map(([reason, count]) => [[reason, "reason"], String(count)]), "none");
  table("transport", [["what"], ["count", 1]],
    [...Object.entries(said.transport).filter(([what]) => what !== "reasons"),
      ["outbox_dropped", said.outbox_dropped], ...Object.entries(said.transport.reasons)]
      .map(([what, count]) => [what.replaceAll("_", " "), count.toLocaleString()]), "none");
}

async function poll() {
  try {
    const answer = await fetch("status", {cache: "no-store", signal: AbortSignal.timeout(5000)});
    if (!answer.ok) throw new Error(answer.status);
    const said = await answer.json();
    show(said);
    at("state").className = "live";
    put("state", said.state + ", " + clock(said.now));
  } catch {
    at("state").className = "gone";
    put("state", "the node does not answer");
  }
  setTimeout(poll, document.hidden ? 4 * EVERY : EVERY);
}
poll();
