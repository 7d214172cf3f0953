"""Pack a trained pair into one folder to share: EMA weights as safetensors, configurations, a model card, previews.

    defect-gen pack --large_recep work/large --small_recep work/small OUT

`defect-gen generate --large_recep OUT` and DefectGen.load("OUT") take it; samples are those of the work_dirs.
"""

from ..errors import Parser
from ..generation.api import DefectGen
from .inference import FLAGS as INFERENCE_FLAGS
from .inference import add_networks, given_networks

FLAGS = INFERENCE_FLAGS | {"folder": "OUT"}


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("out", metavar="OUT", help="a new folder")
    add_networks(parser)
    about = "Markdown for the model card, such as quality.md or lift.md of evaluate; repeatable"
    parser.add_argument("--figures", action="append", default=[], metavar="FILE", help=about)
    args = parser.parse_args(argv)
    DefectGen.load(**given_networks(args), device="cpu", precision="fp32").pack(args.out, args.figures)
    print(f"{args.out}: packed; look at README.md there, and add what others should know")
