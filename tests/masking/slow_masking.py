"""The masking strategies in plain Python, one token at a time, straight from the specification.

Slow on purpose and independent of `cmgems_jax`: lists in, lists out, no numpy, no jax,
nothing imported from the package. `test_masking.py` compares the two exactly.
"""

import itertools
import math

LETTERS = "ATCG"
PAD, UNK, CLS, SEP, MASK = 0, 1, 2, 3, 4
NUM_SPECIAL = 5


def token_id(kmer: str) -> int:
    """Returns 5 + the number that the letters spell in base 4; 1 ([UNK]) for other letters."""
    code = 0
    for letter in kmer:
        if letter not in LETTERS:
            return UNK
        code = 4 * code + LETTERS.index(letter)
    return NUM_SPECIAL + code


def spell(token: int, k: int) -> str:
    """Returns the letters of a k-mer id."""
    code = token - NUM_SPECIAL
    letters = []
    for _ in range(k):
        letters.append(LETTERS[code % 4])
        code //= 4
    return "".join(reversed(letters))


def tokenize(sequence: str, k: int, stride: int = 1) -> list[int]:
    """Returns the ids of the k-mers that start at every `stride`-th base."""
    starts = range(0, len(sequence) - k + 1, stride)
    return [token_id(sequence[start : start + k]) for start in starts]


def window_offsets(k: int, stride: int = 1) -> list[int]:
    """Returns the offsets of as many tokens as cover one base, about the center."""
    num_covering = math.ceil(k / stride)
    return list(range(-((num_covering - 1) // 2), num_covering // 2 + 1))


def span_offsets(k: int, stride: int = 1) -> list[int]:
    """Returns the offsets of every token that shares a base with the center."""
    reach = math.ceil(k / stride) - 1
    return list(range(-reach, reach + 1))


def token_ranks(
    ids: list[int], ranks: list[int], eligible: list[bool], ineligible_rank: int
) -> list[int]:
    """Returns the rank of the token at every position, looked up by token."""
    return [
        ranks[token - NUM_SPECIAL] if allowed else ineligible_rank
        for token, allowed in zip(ids, eligible, strict=True)
    ]


def mask_around(positions: list[int], offsets: list[int], eligible: list[bool]) -> list[bool]:
    """Returns the eligible positions at `offsets` from `positions`; beyond the ends is nothing."""
    masked = [False] * len(eligible)
    for position in positions:
        for offset in offsets:
            target = position + offset
            if 0 <= target < len(eligible) and eligible[target]:
                masked[target] = True
    return masked


def random(centers: list[bool], eligible: list[bool], *, k: int, stride: int = 1) -> list[bool]:
    """Returns DNABERT's mask: the window of every center."""
    positions = [position for position, chosen in enumerate(centers) if chosen]
    return mask_around(positions, window_offsets(k, stride), eligible)


def genemask(
    centers: list[bool], eligible: list[bool], rank: list[int], *, k: int, stride: int = 1
) -> list[bool]:
    """Returns every center's window, and the spans about the better half's best tokens."""
    positions = [position for position, chosen in enumerate(centers) if chosen]
    found = []
    for center in positions:
        best = center
        for offset in window_offsets(k, stride):
            other = center + offset
            inside = 0 <= other < len(eligible) and eligible[other]
            if inside and rank[other] < rank[best]:
                best = other
        found.append((rank[best], center, best))
    found.sort()
    num_kept = math.ceil(len(found) / 2)
    if num_kept < 5:
        num_kept = len(found)
    kept = [best for _, _, best in found[:num_kept]]
    windows = mask_around(positions, window_offsets(k, stride), eligible)
    spans = mask_around(kept, span_offsets(k, stride), eligible)
    return [window or span for window, span in zip(windows, spans, strict=True)]


def global_centers(
    num_centers: int, eligible: list[bool], rank: list[int], *, min_distance: int = 0
) -> list[int]:
    """Returns the best positions, best first, none within `min_distance` of a better one."""
    candidates = [position for position, allowed in enumerate(eligible) if allowed]
    candidates.sort(key=lambda position: (rank[position], position))
    chosen = []
    for candidate in candidates:
        if len(chosen) == num_centers:
            break
        if all(abs(candidate - other) >= min_distance for other in chosen):
            chosen.append(candidate)
    return chosen


def global_top(
    num_centers: int,
    eligible: list[bool],
    rank: list[int],
    *,
    k: int,
    stride: int = 1,
    min_distance: int = 0,
) -> list[bool]:
    """Returns the spans about the best-ranked tokens of the whole sequence."""
    chosen = global_centers(num_centers, eligible, rank, min_distance=min_distance)
    return mask_around(chosen, span_offsets(k, stride), eligible)


def hidden_bases(
    ids: list[int], corrupted: list[int], eligible: list[bool], *, k: int, stride: int = 1
) -> list[int]:
    """Returns, for every eligible token, how many of its bases no shown token covers."""

    def bases_of(position: int) -> range:
        return range(position * stride, position * stride + k)

    seen = set()
    for position, allowed in enumerate(eligible):
        if allowed and corrupted[position] == ids[position]:
            seen.update(bases_of(position))
    return [
        sum(base not in seen for base in bases_of(position)) if allowed else 0
        for position, allowed in enumerate(eligible)
    ]


def keep_first(masked: list[bool], max_predictions: int) -> list[bool]:
    """Returns the first `max_predictions` masked positions."""
    positions = [position for position, chosen in enumerate(masked) if chosen]
    kept = set(positions[:max_predictions])
    return [position in kept for position in range(len(masked))]


def runs(masked: list[bool]) -> list[list[int]]:
    """Returns the positions of every maximal run of masked tokens, from left to right."""
    groups = itertools.groupby(range(len(masked)), key=lambda position: bool(masked[position]))
    return [list(positions) for is_masked, positions in groups if is_masked]
