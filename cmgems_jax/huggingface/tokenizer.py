"""k-mers for HuggingFace: text, and a tokenizer that cuts raw DNA into overlapping k-mers.

transformers has no tokenizer for overlapping k-mers, and a rewriting rule cannot copy
what it matches. It can insert, though: a rule that matches the empty position behind a
base, where a certain base stands j positions on, inserts that base's symbol. One rule
for each base and each j = 1..k-1 writes the k-mer's further letters behind every first
letter. So AutoTokenizer reads raw DNA without remote code. Text that is cut
already, "ACGTAC CGTACG", stays as it is: a word of k letters is one k-mer.
"""

from pathlib import Path

from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase, Normalizer, Replace, Sequence
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from cmgems_jax.config import Config
from cmgems_jax.genome import vocabulary
from cmgems_jax.runtime import outputs

FILES = ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_OTHER = "n"  # any letter that is no base
_PRIVATE = 0xE000  # the first character of Unicode's private use area
_LETTERS_PER_POSITION = 8  # characters set aside for each position of a k-mer


def kmer_text(sequence: str, k: int, stride: int = 1) -> str:
    """Returns the k-mers of DNA or RNA of any case, separated by blanks as in DNABERT's files."""
    letters = sequence.upper().replace("U", "T")
    return " ".join(letters[i : i + k] for i in range(0, len(letters) - k + 1, stride))


def write(folder: Path, config: Config) -> None:
    """Writes the tokenizer's files into a folder.

    With a stride other than 1 the tokenizer takes k-mers separated by blanks
    (`kmer_text`), not raw DNA.
    """
    tokens = vocabulary.tokens(config.tokens.k, config.tokens.alphabet)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    (folder / "tokenizer.json").write_text(make(config).to_str() + "\n")
    special = {f"{token[1:-1].lower()}_token": token for token in vocabulary.SPECIAL_TOKENS}
    settings = special | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.model.num_positions,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        "do_lower_case": False,
    }
    outputs.write_json(folder / "special_tokens_map.json", special)
    outputs.write_json(folder / "tokenizer_config.json", settings)


def make(config: Config) -> Tokenizer:
    """Returns the tokenizer: [CLS], the k-mers, [SEP]; ambiguous k-mers are [UNK]."""
    k, alphabet = config.tokens.k, config.tokens.alphabet
    ids = {token: number for number, token in enumerate(vocabulary.tokens(k, alphabet))}
    _, unk, cls, sep, _ = vocabulary.SPECIAL_TOKENS
    tokenizer = Tokenizer(WordLevel(ids, unk_token=unk))
    cut = _overlapping(k, alphabet) if config.tokens.stride == 1 else _as_written(alphabet)
    tokenizer.normalizer = Sequence(cut)
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(cls, ids[cls]), (sep, ids[sep])],
    )
    tokenizer.add_special_tokens(list(vocabulary.SPECIAL_TOKENS))
    return tokenizer


def _as_written(alphabet: str) -> list[Normalizer]:
    """Returns rules that only unify the letters of k-mers that are cut already."""
    rules = [Lowercase(), Replace("t", "u") if alphabet == "rna" else Replace("u", "t")]
    return rules + [Replace(letter.lower(), letter) for letter in vocabulary.ALPHABETS[alphabet]]


def _overlapping(k: int, alphabet: str) -> list[Normalizer]:
    """Returns rules that turn every base into the k-mer that begins there, and a blank.

    The symbol of letter b at position j of a k-mer is a private character. A base becomes
    the symbol of position 0; then position j is inserted behind position j-1 wherever the
    base j positions on is known; what stays incomplete, at the end, is deleted. A word of
    fewer than k letters becomes `_OTHER`, which is no k-mer: [UNK].
    """
    letters = "".join(vocabulary.ALPHABETS["dna"]).lower() + _OTHER
    written = dict(zip(letters, vocabulary.ALPHABETS[alphabet] + _OTHER.upper(), strict=True))

    def symbol(position: int, letter: str) -> str:
        return chr(_PRIVATE + _LETTERS_PER_POSITION * position + letters.index(letter))

    def any_of(first: int, last: int) -> str:
        return f"[{symbol(first, letters[0])}-{symbol(last, letters[-1])}]"

    rules: list[Normalizer] = [Lowercase(), Replace("u", "t")]
    rules.append(Replace(Regex(rf"[^{letters}\s]"), _OTHER))
    rules += [Replace(letter, symbol(0, letter)) for letter in letters]
    for position in range(1, k):
        skipped = f"(?:{any_of(0, 0)}{any_of(1, position)}*){{{position - 1}}}"
        for letter in letters:
            here = f"(?<={any_of(position - 1, position - 1)})(?={skipped}{symbol(0, letter)})"
            rules.append(Replace(Regex(here), symbol(position, letter)))
    # A word without any k-mer would leave nothing: a letter that no k-mer has makes it [UNK].
    short = rf"(?<!\S)[^{any_of(k - 1, k - 1)[1:-1]}\s]+(?!\S)"
    rules.append(Replace(Regex(short), _OTHER.upper()))
    for position in reversed(range(k - 1)):
        unfinished = f"{any_of(position, position)}(?!{any_of(position + 1, position + 1)})"
        rules.append(Replace(Regex(unfinished), ""))
    for position in range(k):
        end = " " if position == k - 1 else ""
        rules += [Replace(symbol(position, one), written[one] + end) for one in letters]
    return rules
