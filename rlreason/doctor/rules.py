"""All rules of the doctor, the ones that matter most first. A new one is a line here."""

from rlreason.doctor.learning import FALLS, FLAT, FORMAT_APART, HELD_OUT, LEARNED_APART, NO_SIGNAL
from rlreason.doctor.policy import CLIPPED, ENTROPY, KL, NON_FINITE, SAMPLER
from rlreason.doctor.rule import Rule
from rlreason.doctor.texts import ABSTAINING, CUT_OFF, FAILING, LENGTH, REPEATED

RULES: tuple[Rule, ...] = (
    NON_FINITE,
    LEARNED_APART,
    FORMAT_APART,
    FALLS,
    HELD_OUT,
    NO_SIGNAL,
    FAILING,
    ABSTAINING,
    KL,
    ENTROPY,
    SAMPLER,
    CLIPPED,
    CUT_OFF,
    REPEATED,
    LENGTH,
    FLAT,
)
