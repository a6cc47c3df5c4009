"""What the benchmark measures: regimes (a checkpoint, prompts, a law, a number of draws) and the engines of each.

Every engine of a regime does the same work. So that all takes 40 minutes, some regimes are smaller for all of them,
and their names say how small.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Regime:
    checkpoint: str  # demo, smollm2
    prompt_tokens: int | None = None  # few-shot prompts of about so many tokens; None: short prompts
    num_prompts: int
    temperature: float
    max_new_tokens: int
    num_draws: int  # of each prompt
    engines: tuple[str, ...]

    @property
    def law(self) -> str:
        return f"T={self.temperature:g} x {self.max_new_tokens}"

    @property
    def name(self) -> str:
        prompts = f"{self.num_prompts}{f' few-shot ({self.prompt_tokens})' if self.prompt_tokens else ''} prompts"
        plural = prompts if self.num_prompts > 1 else prompts[:-1]
        return f"{self.checkpoint}, {self.law}, n={self.num_draws:,}, {plural}"


OURS = ("tree", "independent", "enumerate")
PEERS = ("generate_2", "generate_10", "vllm", "ctranslate2", "llama_cpp")
ALL = OURS + PEERS
REAL_MODEL = ("tree", "enumerate", "generate_2", "vllm", "ctranslate2", "llama_cpp")
SHARING_PROMPTS = ("tree", "vllm", "llama_cpp")  # the others would take 10 to 25 minutes for some few-shot prompts
LAWS = ((0.1, 5), (0.3, 12), (0.7, 12), (1.0, 10), (1.0, 50))  # temperature, max_new_tokens
CURVE_LAWS = ((0.1, 5), (0.7, 12), (1.0, 10))
NUM_DRAWS = (10, 100, 1_000, 10_000)
FEW_SHOT_TOKENS = {"demo": 450, "smollm2": 1_000}  # the demo's checkpoint has 512 positions
NUM_PROMPTS = {"demo": 10, "smollm2": 6}
TIME_LIMIT_S = {"default": 600.0, "full": 900.0}  # of one call


def _demo(law: tuple[float, int], num_draws: int, engines: tuple[str, ...]) -> Regime:
    return Regime(
        checkpoint="demo",
        num_prompts=NUM_PROMPTS["demo"],
        temperature=law[0],
        max_new_tokens=law[1],
        num_draws=num_draws,
        engines=engines,
    )


def _smollm2(law: tuple[float, int], num_prompts: int, num_draws: int, engines: tuple[str, ...]) -> Regime:
    regime = _demo(law, num_draws, engines)
    return replace(regime, checkpoint="smollm2", num_prompts=num_prompts)


def _few_shot(regime: Regime) -> Regime:
    return replace(regime, prompt_tokens=FEW_SHOT_TOKENS[regime.checkpoint])


DEFAULT = (
    *(_demo(law, 1_000, ALL) for law in LAWS),
    *(_demo(law, n, ("tree", "generate_2")) for law in CURVE_LAWS for n in (10, 100)),
    *(_demo(law, 10_000, ("tree",)) for law in CURVE_LAWS),
    _few_shot(_demo((0.7, 12), 100, ALL)),
    _smollm2((0.1, 10), NUM_PROMPTS["smollm2"], 1_000, REAL_MODEL),
    _smollm2((0.7, 10), 1, 500, REAL_MODEL),
    _few_shot(_smollm2((0.7, 10), 1, 100, REAL_MODEL)),
    _few_shot(_smollm2((0.7, 10), NUM_PROMPTS["smollm2"], 100, SHARING_PROMPTS)),
)

FULL = tuple(_smollm2((temperature, 10), NUM_PROMPTS["smollm2"], 1_000, ALL) for temperature in (0.1, 0.7)) + tuple(
    Regime(
        checkpoint=checkpoint,
        prompt_tokens=prompt_tokens,
        num_prompts=NUM_PROMPTS[checkpoint],
        temperature=law[0],
        max_new_tokens=law[1],
        num_draws=num_draws,
        engines=ALL,
    )
    for checkpoint in ("demo", "smollm2")
    for prompt_tokens in (None, FEW_SHOT_TOKENS[checkpoint])
    for law in LAWS
    for num_draws in NUM_DRAWS
)
