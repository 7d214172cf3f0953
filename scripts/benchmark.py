"""Time this program against the released recipe; see scripts/benchmarks/command.py."""


def run() -> None:
    from benchmarks.command import main

    from guided_diffusion.errors import run_cli

    run_cli(main)


if __name__ == "__main__":
    import run_command

    run_command.run(run)
