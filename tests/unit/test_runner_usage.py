"""The kernel's figures, in the files of either version of control groups."""

import os

from cellwork_worker.runner import usage

MIB = 1 << 20


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


def proc(tmp_path):
    return write(
        tmp_path / "proc",
        {
            "net/dev": "Inter-|   Receive                  |  Transmit\n"
            " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets\n"
            "    lo: 900 1 0 0 0 0 0 0 900 1 0 0 0 0 0 0\n"
            "  eth0: 1500 2 0 0 0 0 0 0 700 3 0 0 0 0 0 0\n"
            "  eth1:   10 2 0 0 0 0 0 0   1 3 0 0 0 0 0 0\n",
            "self/io": "rchar: 99999\nread_bytes: 50\nwrite_bytes: 60\n",
        },
    )


EXPECTED = {
    "run_seconds": 2.0,
    "cpu_seconds": 12_345.5,
    "peak_memory_bytes": 70_000 * MIB,
    "disk_read_bytes": 4096 + 8192,
    "disk_written_bytes": 100,
    "network_received_bytes": 1510,
    "network_sent_bytes": 701,
}


def test_version_1_of_control_groups_is_read(tmp_path):
    root = write(
        tmp_path / "v1",
        {
            "cpuacct/cpuacct.usage": f"{int(12_345.5e9)}\n",
            "memory/memory.max_usage_in_bytes": f"{70_003 * MIB}\n",
            "memory/memory.stat": f"inactive_file 7\ntotal_inactive_file {2 * MIB}\ntotal_active_file {MIB}\n",
            "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
            "blkio/blkio.throttle.io_service_bytes": "8:0 Read 4096\n8:0 Write 100\n8:0 Total 4196\n"
            "9:0 Read 8192\nTotal 12388\n",
        },
    )
    assert usage.measure(2.0, root, proc(tmp_path), own=True) == EXPECTED | {"oom_kills": 2}


def test_version_2_of_control_groups_is_read(tmp_path):
    root = write(
        tmp_path / "v2",
        {
            "cpu.stat": f"usage_usec {int(12_345.5e6)}\nuser_usec 1\n",
            "memory.peak": f"{70_003 * MIB}\n",
            "memory.stat": f"anon 5\ninactive_file {2 * MIB}\nactive_file {MIB}\n",
            "memory.events": "low 0\nhigh 0\nmax 9\noom 1\noom_kill 2\n",
            "io.stat": "8:0 rbytes=4096 wbytes=100 rios=1 wios=1 dbytes=0 dios=0\n9:0 rbytes=8192 wbytes=0\n",
        },
    )
    assert usage.measure(2.0, root, proc(tmp_path), own=True) == EXPECTED | {"oom_kills": 2}


def test_where_the_kernel_shows_nothing_the_processes_own_figures_are_told(tmp_path):
    found = usage.measure(2.0, str(tmp_path / "none"), str(tmp_path / "none"), own=True)
    assert 0 < found["cpu_seconds"] < 10_000
    assert MIB < found["peak_memory_bytes"] < 60_000 * MIB
    assert "disk_read_bytes" not in found
    assert found["network_sent_bytes"] == 0


def test_a_process_among_others_does_not_take_their_figures_for_its_own(tmp_path):
    root = write(tmp_path / "host", {"cpuacct/cpuacct.usage": f"{10**18}\n"})
    assert os.getpid() != 1
    found = usage.measure(2.0, root, proc(tmp_path))
    assert found["cpu_seconds"] < 10_000
    assert set(found) == {"run_seconds", "cpu_seconds", "peak_memory_bytes", "disk_read_bytes", "disk_written_bytes"}
    assert (found["disk_read_bytes"], found["disk_written_bytes"]) == (50, 60)


def test_where_the_kernel_does_not_count_disks_by_group_the_processes_are_asked(tmp_path):
    root = write(tmp_path / "v1", {"blkio/blkio.throttle.io_service_bytes": "Total 0\n"})
    found = usage.measure(2.0, root, proc(tmp_path), own=True)
    assert (found["disk_read_bytes"], found["disk_written_bytes"]) == (50, 60)
