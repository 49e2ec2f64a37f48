"""What a credit note says of tax that came on top: its share, whatever the parts."""

from hypothesis import given
from hypothesis import strategies as st

from monetize.domain.invoices import Charged

AMOUNTS = st.integers(1, 10**9)


@given(base=AMOUNTS, percent=st.integers(0, 100), multiple=st.sampled_from((1, 10, 100)), data=st.data())
def test_what_was_credited_with_tax_says_what_it_was_without(
    base: int, percent: int, multiple: int, data: st.DataObject
) -> None:
    charged = Charged(
        amount=base * multiple, base=base * multiple, tax=base * percent // 100 * multiple, multiple_of=multiple
    )
    net = data.draw(st.integers(0, base)) * multiple
    assert charged.net(charged.gross(net)) == net


@given(base=AMOUNTS, percent=st.integers(0, 100), data=st.data())
def test_parts_of_an_invoice_take_all_of_its_tax_and_no_more(base: int, percent: int, data: st.DataObject) -> None:
    charged = Charged(amount=base, base=base, tax=base * percent // 100)
    cuts = sorted(data.draw(st.lists(st.integers(0, base), max_size=6)))
    credited = 0
    for start, end in zip([0, *cuts], [*cuts, base], strict=True):
        before = charged.net(credited)
        assert before == start
        credited += charged.gross(before + end - start) - charged.gross(before)
    assert credited == base + charged.tax
