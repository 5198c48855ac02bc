"""The program discos-backend-client, also as `python -m discosbackend.client`: one request, several, or a shell."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn

from discosbackend._version import __version__
from discosbackend.client.address import VARIABLE, address_in_environment, host_and_port
from discosbackend.client.blocking import Client
from discosbackend.client.layout import as_json, painted, plain
from discosbackend.client.methods import REPLY_MARGIN, REPLY_WAIT
from discosbackend.client.words import SHELL_WORDS, request_of
from discosbackend.commands import COMMANDS, CONVERSION_TIMEOUT
from discosbackend.errors import ClientError, GrammarException, Interrupted, NoReply, reason_of
from discosbackend.grammar import OK, Message, name_pattern
from discosbackend.line_socket import checked_wait
from discosbackend.log import address_text, printable
from discosbackend.signals import INTERRUPTED, interrupting
from discosbackend.standard_output import escape_output, write_result
from discosbackend.ticks import Ticks

__all__ = ["main", "positive_seconds"]

_CANNOT_WRITE = "{}: cannot write the reply to {} to standard output: {}\n"
_CTRL_C = "interrupted by SIGINT"
_SHELLS = ("bash", "zsh")

_EPILOG = f"""\
examples:
  %(prog)s 127.0.0.1:8978                       an interactive shell
  %(prog)s 127.0.0.1:8978 status                one request
  %(prog)s 127.0.0.1:8978 set-enable 0 3
  %(prog)s 127.0.0.1:8978 start +5s             in 5 s, by the backend's clock
  %(prog)s 127.0.0.1:8978 '?get-tpi,0,0'        the request as it is sent
  %(prog)s --json 127.0.0.1:8978 status         the reply as JSON
  %(prog)s 127.0.0.1:8978 - < commands.txt      one command a line
  {VARIABLE}='[::1]:8978' %(prog)s status

exit status:
  0    every reply was ok
  1    a reply was not ok, or did not arrive
  2    invalid command line: nothing was sent
  130  interrupted (Ctrl-C, SIGTERM or SIGHUP)
"""


_PROGRAM = "discos-backend-client"

_BASH = f"""\
# bash splits an address at its colons. Here its parts are joined again, and an address that is left out is added.
_discos_backend_client() {{
  local -a words=("${{COMP_WORDS[0]}}")
  local index cursor=0 word joins=0 place=0 value=0
  for (( index = 1; index < ${{#COMP_WORDS[@]}}; index++ )); do
    word="${{COMP_WORDS[index]}}"
    if (( ${{#words[@]}} > 1 )) && [[ "$word" =~ ^:+$ || $joins = 1 ]]; then
      words[${{#words[@]}}-1]+="$word"
    else
      words+=("$word")
    fi
    [[ "$word" =~ ^:+$ ]] && joins=1 || joins=0
    (( index == COMP_CWORD )) && cursor=$(( ${{#words[@]}} - 1 ))
  done
  # The place of the first word that is neither an option nor its value.
  for (( index = 1; index < ${{#words[@]}} && place == 0; index++ )); do
    word="${{words[index]}}"
    if (( value )); then
      value=0
    elif [[ "$word" == --timeout || "$word" == --print-completion ]]; then
      value=1
    elif [[ "$word" != -?* ]]; then
      place=$index
    fi
  done
  if [[ -n "${VARIABLE}" ]] && (( place && place <= cursor )) && [[ "${{words[place]}}" != *:* ]]; then
    words=("${{words[@]:0:place}}" "${VARIABLE}" "${{words[@]:place}}")
    cursor=$(( cursor + 1 ))
  fi
  local -a COMP_WORDS=("${{words[@]}}")
  local COMP_CWORD=$cursor
  _shtab_discos_backend_client "$@"
}}

complete -o bashdefault -F _discos_backend_client discos-backend-client
"""


def main(arguments: Sequence[str] | None = None, prog: str = _PROGRAM) -> NoReturn:
    """Send one request and print its reply, or run the shell. For the exit status see _EPILOG.

    Parameters
    ----------
    arguments
        The command line without the program's name. Default: that of the process.
    prog
        The name of the program.
    """
    parser = _parser(prog)
    options = parser.parse_args(arguments)
    if options.print_completion:
        _print_completion(parser, options.print_completion)
    host, port = _address(parser, options.words)
    words = options.words
    if not words or words == ["-"]:
        escape_output()
        if words or not sys.stdin.isatty():
            _run_lines(parser, (host, port), options)
        _run_shell(parser, (host, port), options)
    _run_one(parser, (host, port), words, options)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        usage="%(prog)s [--timeout SECONDS] [--json] [HOST:PORT] [COMMAND [ARGUMENT ...] | -]",
        description="Send requests to a DISCOS backend server and print the replies. Without a command: a shell.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words",
        metavar="HOST:PORT COMMAND ARGUMENT",
        nargs="*",
        help=f"where the server listens (default: the environment variable {VARIABLE}); the command, a complete "
        "request such as '?get-tpi,0,0', or - for commands from standard input, one a line; the arguments, without "
        "escapes, which are added",
    )
    parser.add_argument(
        "--timeout",
        type=positive_seconds,
        metavar="SECONDS",
        help=f"how long to wait for the reply (default: {REPLY_WAIT:g}; "
        f"{CONVERSION_TIMEOUT + REPLY_MARGIN:g} for convert-data)",
    )
    parser.add_argument("--json", action="store_true", help="print each reply as one line of JSON")
    parser.add_argument(
        "--print-completion",
        choices=_SHELLS,
        metavar="|".join(_SHELLS),
        help="print a file that completes the commands in this shell (needs shtab)",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _address(parser: argparse.ArgumentParser, words: list[str]) -> tuple[str, int]:
    """Return the address, and remove it from the words if it is there."""
    try:
        found = address_in_environment()
    except ValueError as problem:
        parser.error(str(problem))
    if found is not None and (not words or words[0][:1] in ("?", "-") or name_pattern.fullmatch(words[0])):
        return found
    if not words:
        parser.error(f"HOST:PORT is missing: write it, or set the environment variable {VARIABLE}")
    if words[0][:1] in ("?", "-") or words[0] in COMMANDS or words[0] in SHELL_WORDS:
        parser.error(
            f"HOST:PORT is missing before {words[0]}: write it, such as 127.0.0.1:8978, or set the environment "
            f"variable {VARIABLE}"
        )
    try:
        address = host_and_port(words[0])
    except argparse.ArgumentTypeError as problem:
        parser.error(str(problem))
    del words[0]
    return address


def _run_one(
    parser: argparse.ArgumentParser, address: tuple[str, int], words: Sequence[str], options: argparse.Namespace
) -> NoReturn:
    """Send one request, and print the reply as it was sent, or as JSON."""
    escape_output()
    name = words[0]
    if name in SHELL_WORDS or name == "?":
        own = "" if name == "?" else f". A command of the backend with this name is sent by '?{name}'"
        parser.error(
            f"{name} is a word of the shell, and not sent: start the shell, by the address without a command{own}"
        )
    goes_on = ""
    try:
        # What cannot be sent is refused before the server is asked for the time.
        name = request_of(words, Ticks.now).name
        with interrupting(), Client(*address, timeout=options.timeout) as client:
            request = request_of(words, client.time)
            if (wait := client.reply_wait(request.name)) > REPLY_WAIT and options.timeout is None:
                print(f"waiting for the reply to {request.name}, for up to {wait:g} s", file=sys.stderr, flush=True)
            goes_on = f": the server continues to execute {request.name}"
            reply = client.exchange(request)
    except GrammarException as problem:
        parser.error(str(problem))
    except ClientError as problem:
        print(printable(str(problem)), file=sys.stderr)
        sys.exit(1)
    except Interrupted as problem:
        print(f"{problem}{goes_on}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    try:
        write_result(f"{as_json(reply, COMMANDS.get(name)) if options.json else _line(reply)}\n")
    except OSError as problem:
        parser.exit(1, _CANNOT_WRITE.format(parser.prog, name, reason_of(problem)))
    sys.exit(0 if reply.code == OK else 1)


def _line(reply: Message) -> str:
    """Return a reply as it was sent, in printable characters."""
    if reply.code == OK and reply.name in COMMANDS:
        reply.arguments = COMMANDS[reply.name].from_wire(reply.arguments)
    # The server may send control characters such as 0x9B, which would control the terminal.
    return printable(str(reply))


def _run_lines(parser: argparse.ArgumentParser, address: tuple[str, int], options: argparse.Namespace) -> NoReturn:
    """Execute the lines of standard input. A line that fails does not stop the others."""
    sys.exit(_run(parser, address, options, _stripped(sys.stdin), interactive=False))


def _stripped(lines: Iterable[str]) -> Iterable[str]:
    for line in lines:
        yield line.rstrip("\n")


def _run_shell(parser: argparse.ArgumentParser, address: tuple[str, int], options: argparse.Namespace) -> NoReturn:
    sys.exit(_run(parser, address, options, None, interactive=True))


def _run(
    parser: argparse.ArgumentParser,
    address: tuple[str, int],
    options: argparse.Namespace,
    lines: Iterable[str] | None,
    *,
    interactive: bool,
) -> int:
    from discosbackend.client.shell import Leave, Shell

    paint = painted if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else plain
    worked = True
    try:
        with interrupting(), Client(*address, timeout=options.timeout, reconnect=True) as client:
            shell = Shell(client, _say, paint=paint, json=options.json, complain=_say if interactive else _complain)
            if lines is not None:
                for line in lines:
                    worked &= shell.execute(line)
                return 0 if worked else 1
            from discosbackend.client.prompt import history_file, line_reader

            write_result(f"connected to {address_text(address)}; ? shows the commands\n")
            read = line_reader(f"{address_text(address)}> ", shell.completions, history_file())
            while True:
                executing = False
                try:
                    line = read()
                    executing = True
                    shell.execute(line)
                except KeyboardInterrupt as problem:
                    if isinstance(problem, Interrupted) and problem.args != (_CTRL_C,):
                        raise
                    if executing:
                        _say(f"\ninterrupted: the server continues to execute {shell.asked}" if shell.asked else "")
    except (Leave, EOFError):
        return 0 if worked or interactive else 1
    except NoReply as problem:
        print(printable(str(problem)), file=sys.stderr)
        return 1
    except OSError as problem:
        print(_CANNOT_WRITE.format(parser.prog, "a request", reason_of(problem)), end="", file=sys.stderr)
        return 1
    except Interrupted as problem:
        print(problem, file=sys.stderr)
        return INTERRUPTED


def _say(text: str) -> None:
    write_result(f"{text}\n")


def _complain(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _print_completion(parser: argparse.ArgumentParser, shell: str) -> NoReturn:
    try:
        import shtab
    except ImportError:
        parser.error("--print-completion needs shtab: pip install 'discosbackend[shell]'")
    described = _parser(_PROGRAM)
    # shtab completes a word by its choices, so the words are described one by one.
    words = described._get_positional_actions()[0]  # noqa: SLF001
    described._remove_action(words)  # noqa: SLF001
    described.add_argument("address", metavar="HOST:PORT")
    described.add_argument("command", choices=[*COMMANDS, "-"], nargs="?")
    described.add_argument("arguments", nargs="*").complete = shtab.FILE  # type: ignore[attr-defined]
    write_result(f"{shtab.complete(described, shell)}\n{_BASH if shell == 'bash' else ''}")
    sys.exit(0)


def positive_seconds(text: str) -> float:
    """Convert an argument to a number of seconds above 0, at most a day. Raise ArgumentTypeError if it is not."""
    try:
        return checked_wait(float(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0, at most a day") from None
