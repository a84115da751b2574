// The rows of the page "Sandboxes". Whatever is in a name is text: textContent, never markup.
"use strict";
(function () {
  const page = document.getElementById("cellwork-sandboxes");
  const body = document.getElementById("cellwork-rows");
  const status = document.getElementById("cellwork-status");
  const dot = document.getElementById("cellwork-dot");
  const PERIOD_MS = 2000;

  function bytes(amount) {
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = 0;
    for (; amount >= 1024 && unit < units.length - 1; unit++) {
      amount /= 1024;
    }
    return `${amount.toFixed(unit && amount < 100 ? 1 : 0)} ${units[unit]}`;
  }

  function duration(seconds) {
    const minutes = Math.floor(seconds / 60), hours = Math.floor(minutes / 60);
    const rest = Math.floor(seconds % 60);
    return hours ? `${hours}h ${minutes % 60}m` : minutes ? `${minutes}m ${rest}s` : `${rest}s`;
  }

  function cell(row, text, kind) {
    const made = row.insertCell();
    made.className = kind || "";
    if (text instanceof Node) {
      made.append(text);
    } else {
      made.textContent = text === null || text === undefined ? "—" : text;
    }
  }

  function link(pattern, id, text) {
    const made = document.createElement("a");
    made.href = pattern.replace("TASK", encodeURIComponent(id));
    made.textContent = text;
    return made;
  }

  // The task, and below it its sandbox; a task's id that is not in that name is shown, too.
  function named(found) {
    const made = document.createElement("div");
    made.append(link(page.dataset.task, found.task_id, found.task));
    const names = found.sandbox.includes(found.task_id) ? [found.sandbox] : [found.sandbox, found.task_id];
    for (const name of names) {
      const line = document.createElement("div");
      line.className = "cellwork-name";
      line.textContent = name;
      made.append(line);
    }
    return made;
  }

  function add(found) {
    const row = body.insertRow();
    row.dataset.taskId = found.task_id;
    const limit = found.memory_limit_bytes ? " / " + bytes(found.memory_limit_bytes) : "";
    cell(row, named(found));
    cell(row, found.image);
    cell(row, found.worker);
    cell(row, found.status);
    cell(row, duration(found.seconds), "text-end");
    cell(row, found.cpu_percent === null ? null : `${found.cpu_percent} %`, "text-end");
    cell(row, found.memory_bytes === null ? null : bytes(found.memory_bytes) + limit, "text-end");
    cell(row, link(page.dataset.logs, found.task_id, "Logs"));
  }

  async function refresh() {
    let told;
    try {
      const answer = await fetch(page.dataset.rows, {credentials: "same-origin"});
      told = answer.status === 200 || answer.status === 503 ? await answer.json() : {error: `status ${answer.status}`};
    } catch (error) {
      told = {error: "Flower does not answer"};
    }
    dot.classList.toggle("status-dot-live", !told.error);
    if (told.error) {
      status.textContent = told.error;
    } else {
      status.textContent = `${told.rows.length} running`;
      body.replaceChildren();
      told.rows.forEach(add);
      if (!told.rows.length) {
        cell(body.insertRow(), "No sandbox runs.", "empty-table-message");
        body.rows[0].cells[0].colSpan = 8;
      }
    }
    setTimeout(refresh, PERIOD_MS);
  }

  refresh();
})();
