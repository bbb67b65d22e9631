// The page's Speakers tab: names of speakers as they are typed, one turn of the recording aloud, a file to save.
// Knows the fragment that html.py draws, nothing of Gradio; speakers.py calls names and save.
"use strict";
window.speechGatewaySpeakers = (() => {
  const box = () => document.querySelector("#turns .sg-speakers");
  const inputs = () => [...(box()?.querySelectorAll("input[data-speaker]") ?? [])];
  const named = (input) => input.value.trim() || input.dataset.speaker;
  let end = Infinity; // second at which the turn that plays is over

  document.addEventListener("input", (event) => {
    const input = event.target.closest?.("#turns input[data-speaker]");
    if (!input) return;
    for (const one of box().querySelectorAll("b[data-speaker]")) {
      if (one.dataset.speaker === input.dataset.speaker) one.textContent = named(input);
    }
  });

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("#turns button[data-start]");
    if (!button) return;
    const audio = box().querySelector("audio");
    end = Number(button.dataset.end);
    audio.currentTime = Number(button.dataset.start);
    audio.play();
  });

  // The events of an audio element do not bubble: they are caught on their way down.
  document.addEventListener("timeupdate", (event) => {
    if (event.target !== box()?.querySelector("audio") || event.target.currentTime < end) return;
    event.target.pause();
    end = Infinity;
  }, true);

  return {
    names: () => Object.fromEntries(inputs().map((input) => [input.dataset.speaker, named(input)])),
    save: (file) => {
      if (!file?.name) return;
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([file.text], { type: "text/plain" }));
      link.download = file.name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    },
  };
})();
