"""The supervisor's configuration: which processes to keep running, and how.

supervisor waits one second longer after each failed start, without end; a process that lived past its settling time
starts again at once. Source: http://supervisord.org/configuration.html
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from kivactl.stack.engine import Process
from kivactl.stack.layout import Layout

_LOG_BYTES = 20 * 2**20
_LOG_BACKUPS = 5


def supervisor_for(layout: Layout, processes: Iterable[Process], *, python: Path, user: str, environment: Mapping[str, str]) -> str:
    """The whole configuration file.

    Args:
        layout: Where sockets and logs lie.
        processes: What to keep running.
        python: Interpreter for the reaper.
        user: Who runs it all; supervisor wants root to be named.
        environment: What every process needs of ours (PATH, HOME); everything else is left out.
    """
    common = _environment(environment)
    sections = [
        f"[unix_http_server]\nfile={_literal(layout.supervisor_socket)}\nchmod=0600",
        "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
        "\n".join(
            [
                "[supervisord]",
                f"logfile={_literal(layout.log('supervisor'))}",
                f"logfile_maxbytes={_LOG_BYTES}",
                "logfile_backups=2",
                f"pidfile={_literal(layout.run / 'supervisor.pid')}",
                f"directory={_literal(layout.state)}",
                f"user={user}",
                "umask=077",
                "nocleanup=true",
                "minfds=1024",
            ]
        ),
        f"[supervisorctl]\nserverurl=unix://{_literal(layout.supervisor_socket)}",
        "\n".join(
            [
                "[eventlistener:reaper]",
                f"command={_quoted((str(python), '-m', 'kivactl.targets.reaper'))}",
                "events=PROCESS_STATE_STARTING,PROCESS_STATE_RUNNING,PROCESS_STATE_BACKOFF,PROCESS_STATE_EXITED,PROCESS_STATE_STOPPED,PROCESS_STATE_FATAL,TICK_5",
                "priority=1",
                "autorestart=true",
                f"environment={common}",
                f"stderr_logfile={_literal(layout.log('reaper'))}",
                f"stderr_logfile_maxbytes={_LOG_BYTES}",
                "stderr_logfile_backups=1",
            ]
        ),
        *(_program(layout, process, environment) for process in processes),
    ]
    return "\n\n".join(sections) + "\n"


def _program(layout: Layout, process: Process, environment: Mapping[str, str]) -> str:
    log = layout.log(process.name)
    return "\n".join(
        [
            f"[program:{process.name}]",
            f"command={_quoted(process.argv)}",
            f"environment={_environment({**environment, **process.environment})}",
            f"directory={_literal(layout.state)}",
            "umask=077",
            "autostart=false",
            "autorestart=true",
            f"startsecs={round(process.settles_within_s)}",
            "startretries=1000000",
            "stopsignal=TERM",
            f"stopwaitsecs={round(process.stop_within_s)}",
            "stopasgroup=false",  # the engine's children drain under their leader's eyes
            "killasgroup=true",
            f"stdout_logfile={_literal(log)}",
            f"stdout_logfile_maxbytes={_LOG_BYTES}",
            f"stdout_logfile_backups={_LOG_BACKUPS}",
            "redirect_stderr=true",
        ]
    )


def _literal(text: object) -> str:
    return str(text).replace("%", "%%")


def _quoted(argv: Iterable[str]) -> str:
    """Words as supervisor reads them: shlex rules, `%` doubled; a `;` after a space would begin a comment."""
    return " ".join('"' + word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"' for word in argv)


def _environment(values: Mapping[str, str]) -> str:
    return ",".join(f'{name}="{_literal(value)}"' for name, value in sorted(values.items()))
