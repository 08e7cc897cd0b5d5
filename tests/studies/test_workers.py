"""Work spread over processes."""

from concurrent.futures import ThreadPoolExecutor

from tetrisim.studies.workers import workers


def lengths(jobs):
    with workers(jobs) as spread:
        return list(spread(len, ["a", "bcd", "ef"]))


def test_processes_answer_in_the_order_of_the_arguments():
    assert lengths(1) == lengths(2) == [1, 3, 2]


def test_a_thread_that_hears_no_ctrl_c_may_start_them_too():
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lengths, 2).result() == [1, 3, 2]
