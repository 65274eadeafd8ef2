// The data of the page. It is parsed as JSON and goes into the page as text, never as HTML.

const DATA = JSON.parse(document.getElementById("data").textContent);
const RUNS = DATA.runs;

/** The completions of a run, unpacked once. Each knows its group, and each group its completions. */
function unpack(number) {
  const run = RUNS[number];
  if (run.completions) return run.completions;
  const block = document.getElementById(`completions-${number}`);
  const packed = JSON.parse(block.textContent);
  block.remove(); // the text is not needed twice
  run.completions = [];
  run.groups = packed.groups.map(([step, group, question, answer, members, greedy, size]) => {
    const made = { step, group, question, answer, greedy, size, members: [] };
    made.members = members.map(([reward, advantage, tokens, finish, pieces, scores, place]) => ({
      group: made, place, reward, advantage, tokens, finish, pieces,
      scores: scores.map(([name, value, reason, failed]) => ({
        name: packed.rewards[name], value, reason: packed.reasons[reason], failed: Boolean(failed),
      })),
    }));
    run.completions.push(...made.members);
    return made;
  });
  return run.completions;
}

/** The parts of a completion that have that role, joined. */
function partOf(completion, role) {
  return completion.pieces.filter((_, place) => place % 2 && completion.pieces[place - 1] === role).join(" ");
}

/** The text of a completion, for search. */
function textOf(completion) {
  if (completion.text === undefined) {
    let text = "";
    for (let i = 0; i < completion.pieces.length; i += 2) {
      if (completion.pieces[i] !== "cut") text += completion.pieces[i + 1];
    }
    completion.text = text;
  }
  return completion.text;
}

function stageOf(run, name) {
  return run.stages.find((stage) => stage.name === name);
}
