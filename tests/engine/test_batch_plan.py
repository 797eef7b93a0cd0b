import pytest

from app.engine.batch_plan import BatchPlan, plan_batches


def plan(**bucket_ms: float) -> BatchPlan:
    return plan_batches({int(bucket[1:]): ms / 1000 for bucket, ms in bucket_ms.items()})


def test_the_largest_batch_is_the_smallest_bucket_that_is_nearly_the_fastest() -> None:
    # 1,000, 1,600, 1,905 and 1,951 items/s: 8 items gain 2.4 % over 4, not worth the wait.
    assert plan(b1=1.0, b2=1.25, b4=2.1, b8=4.1).max_items == 4


def test_what_surrounds_a_call_makes_larger_batches_pay() -> None:
    measured = {1: 0.0016, 4: 0.0033, 8: 0.0061, 16: 0.0116, 32: 0.0229, 64: 0.0500}
    assert plan_batches(measured).max_items == 8
    assert plan_batches(measured, per_call_s=0.001).max_items == 16


def test_batching_that_does_not_pay_is_not_done() -> None:
    assert plan(b1=1.0, b2=2.1, b4=4.5).max_items == 1


def test_items_between_buckets_are_padded_where_that_is_faster() -> None:
    assert plan(b1=1.0, b2=1.1, b4=1.2).take[3] == 3


def test_items_between_buckets_are_split_where_that_is_faster() -> None:
    assert plan(b1=1.0, b2=1.8, b4=3.4, b8=6.0).take[5] == 4


def test_every_queue_length_is_taken_in_full_by_repeated_takes() -> None:
    batches = plan(b1=1.0, b2=1.5, b4=2.2, b8=3.5)
    for waiting in range(1, batches.max_items + 1):
        assert 1 <= batches.take[waiting] <= waiting
        rest = waiting - batches.take[waiting]
        assert batches.seconds[waiting] > batches.seconds[rest]


def test_the_time_of_many_items_is_that_of_full_batches_and_the_rest() -> None:
    batches = plan(b1=1.0, b2=1.5, b4=2.0)
    assert batches.seconds_for(9) == 2 * 0.002 + 0.001
    assert batches.seconds_per_item == 0.002 / 4


def test_items_of_one_request_are_taken_in_larger_batches_where_these_pay_at_all() -> None:
    batches = plan(b1=1.0, b2=1.25, b4=2.1, b8=3.9)
    assert (batches.max_items, batches.max_lot_items) == (4, 8)
    assert batches.take[8] == 8
    assert batches.seconds_per_item == pytest.approx(0.0021 / 4)
    assert batches.seconds_for(17) == pytest.approx(2 * 0.0039 + 0.001)


def test_items_of_one_request_are_taken_in_no_larger_batches_where_these_do_not_pay() -> None:
    assert plan(b1=1.0, b2=1.25, b4=2.1, b8=4.19).max_lot_items == 4
