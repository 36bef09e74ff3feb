"""Shell completion: commands, past studies, and what Hydra knows of keys and choices.

Hydra's own script looks for a file with `@hydra.main` in it, which `python -m orchestrator` is not;
the candidates come from Hydra all the same.
"""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.commands import USAGE
from orchestrator.compose import completions
from orchestrator.errors import ConfigError

# `=` no longer breaks words, so that a word is a whole override.
SCRIPT = """\
_orchestrator_complete() {
    local command="${COMP_WORDS[0]}" line="${COMP_LINE:0:COMP_POINT}"
    COMPREPLY=()
    if [[ "$command" == *python* ]]; then
        [[ "${COMP_WORDS[1]}" == -m && "${COMP_WORDS[2]}" == orchestrator ]] || return
        command="$command -m orchestrator"
    fi
    local word="${line##* }" choices
    choices=$(COMP_LINE="$line" $command --shell-completion query=bash 2>/dev/null)
    COMPREPLY=($(compgen -W "$choices" -- "$word"))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _orchestrator_complete orchestrator python python3
"""
ZSH = "autoload -Uz compinit bashcompinit && compinit && bashcompinit\n"
REMOVE = "complete -r orchestrator python python3; unset -f _orchestrator_complete\n"


def answer(overrides: list[str]) -> None:
    """Do what `--shell-completion install=bash` (uninstall=, query=; zsh) asks."""
    what, _, shell = (overrides or [""])[0].partition("=")
    if what not in ("install", "uninstall", "query") or shell not in ("bash", "zsh"):
        raise ConfigError("--shell-completion: must be install, uninstall or query = bash or zsh")
    if what == "query":
        print("\n".join(_candidates(os.environ.get("COMP_LINE", ""))))
    else:
        script = SCRIPT if what == "install" else REMOVE
        print((ZSH if shell == "zsh" and what == "install" else "") + script, end="")


def _candidates(line: str) -> list[str]:
    """Return what may stand in place of the last word of `line`."""
    words = line.split(" ")
    after = words[3:] if words[1:2] == ["-m"] else words[1:]
    typed, word = after[:-1], (after or [""])[-1]
    if typed and typed[0] in USAGE:
        return sorted(f.name for f in Path("runs").glob("*") if (f / "config.yaml").is_file())
    found = completions(" ".join(after))
    return [*(c for c in USAGE if not typed and c.startswith(word)), *found]
