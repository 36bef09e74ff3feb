"""Shell completion: commands, past studies, and Hydra's keys and choices.

Hydra's own script needs a file with `@hydra.main`, which `python -m orchestrator` is not. The
candidates still come from Hydra.
"""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.commands import USAGE
from orchestrator.config.compose import completions
from orchestrator.errors import ConfigError
from orchestrator.storage.paths import StudyPaths

# `=` no longer breaks words, so that a word is a whole override.
BASH = """\
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
# Not bash's function through bashcompinit: zsh parses its `:0:` and `$command -m` differently.
# The completion that zsh has for python stays.
ZSH = """\
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
_orchestrator_complete() {
    local -a command=($words[1]) choices
    if [[ $words[1] == *python* ]]; then
        [[ $words[2] == -m && $words[3] == orchestrator ]] || { _python "$@"; return }
        command+=(-m orchestrator)
    fi
    local line="${(j: :)words[1,CURRENT-1]} $PREFIX"
    choices=(${(f)"$(COMP_LINE=$line $command --shell-completion query=zsh 2>/dev/null)"})
    compadd -S '' -- $choices || _default
}
compdef _orchestrator_complete orchestrator python python3
"""
UNDO = {
    "bash": "complete -r orchestrator python python3",
    "zsh": "compdef -d orchestrator; compdef _python python python3",
}


def answer(overrides: list[str]) -> None:
    """Print what `--shell-completion install=bash` asks for (or uninstall=, query=; or zsh)."""
    what, _, shell = (overrides or [""])[0].partition("=")
    if what not in ("install", "uninstall", "query") or shell not in ("bash", "zsh"):
        raise ConfigError("--shell-completion: must be install, uninstall or query = bash or zsh")
    if what == "query":
        print("\n".join(_candidates(os.environ.get("COMP_LINE", ""))))
    elif what == "install":
        print({"bash": BASH, "zsh": ZSH}[shell], end="")
    else:
        print(f"{UNDO[shell]}; unset -f _orchestrator_complete")


def _candidates(line: str) -> list[str]:
    """Return the candidates for the last word of `line`."""
    words = line.split(" ")
    after = words[3:] if words[1:2] == ["-m"] else words[1:]
    typed, word = after[:-1], (after or [""])[-1]
    if typed and typed[0] in USAGE:
        if typed[0] not in ("show", "compare"):
            return []
        return sorted(f.name for f in Path("runs").glob("*") if StudyPaths(f).config.is_file())
    found = completions(" ".join(after))
    return [*(c for c in USAGE if not typed and c.startswith(word)), *found]
