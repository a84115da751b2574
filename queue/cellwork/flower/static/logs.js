// Follows a task's output. What it printed is text: textContent, never markup.
"use strict";
(function () {
  const page = document.getElementById("cellwork-log");
  const lines = document.getElementById("cellwork-lines");
  const status = document.getElementById("cellwork-status");
  const dot = document.getElementById("cellwork-dot");
  const MOST = 5000;
  let shown = 0, dropped = 0;

  const source = new EventSource(page.dataset.events);

  function state(text, live) {
    status.textContent = text + (dropped ? ` (${dropped} older lines not shown)` : "");
    dot.classList.toggle("status-dot-live", live);
  }

  source.addEventListener("open", () => {
    // Also after a broken connection, and then it begins with the first line again.
    lines.replaceChildren();
    shown = dropped = 0;
    state("Following", true);
  });

  source.addEventListener("line", (event) => {
    const line = JSON.parse(event.data);
    const bottom = lines.scrollHeight - lines.scrollTop - lines.clientHeight < 40;
    const row = document.createElement("span");
    row.className = `cellwork-line cellwork-${line.stream}`;
    row.dataset.time = new Date(line.time).toLocaleTimeString();
    row.textContent = line.text + "\n";
    lines.append(row);
    if (++shown > MOST) {
      lines.firstChild.remove();
      dropped++;
    }
    if (bottom) {
      lines.scrollTop = lines.scrollHeight;
    }
  });

  source.addEventListener("over", () => {
    source.close();
    state("Ended", false);
  });

  source.addEventListener("failed", (event) => {
    source.close();
    state(JSON.parse(event.data), false);
  });

  source.addEventListener("error", () => {
    state("Flower does not answer; trying again", false);
  });
})();
