"""Draw defects into photographs by hand, on a page in the browser: drop one, brush, generate, keep what is good.

    defect-gen ui --large_recep work/large --small_recep work/small --sample_dir work/by_hand

What is kept goes into a sample folder that export, curate and evaluate read. The page is for this computer alone unless
--host says otherwise; it contacts no other server. Needs an extra: pip install ".[ui]" in the clone.
"""

from .. import page
from ..errors import InputError, Parser, check_range
from ..generation.api import DefectGen
from .inference import FLAGS as FLAGS
from .inference import add_networks, given_networks


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add_networks(parser)
    add("--sample_dir", required=True, help="folder for what is kept, which the gallery shows")
    add("--bank_data", metavar="DIR", help="data set whose masks the bank has (the large network's training set)")
    about = "photograph pixels per training pixel, or down and across (default: as training recorded)"
    add("--scale", type=float, nargs="+", metavar="F", help=about)
    add("--host", default="127.0.0.1", help="listen address; any but 127.0.0.1 lets other computers in (127.0.0.1)")
    add("--port", type=int, default=7860, help="(7860)")
    add("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    args = parser.parse_args(argv)
    check_range(args, port=(1, 65535))
    generator = DefectGen.load(**given_networks(args), device=args.device)
    blocks = page.build(page.Page(generator, args.sample_dir, args.bank_data, args.scale))
    how = {"server_name": args.host, "server_port": args.port, "max_file_size": page.MAX_BYTES, "css": page.CSS}
    try:
        blocks.launch(**how, prevent_thread_lock=True, ssr_mode=False, quiet=True, footer_links=[])
    except OSError as error:
        raise InputError(f"--port {args.port}: cannot be listened at on {args.host}; name another") from error
    print(f"open http://{args.host}:{args.port} in a browser; Ctrl-C ends this", flush=True)
    blocks.block_thread()
