//! How much memory searches may take: what `--memory-max` says, else a share of what the machine,
//! the process's control groups and its own limits leave when it starts.

use std::fs;
use std::path::Path;

use kvmmu_sim::memory::Memory;

/// The share of what is left that searches take by default, in percent.
const SHARE: u64 = 80;

const MIB: u64 = 1 << 20;

/// What a thread that explores takes besides: its stack and those of a scenario's threads.
const STACKS: u64 = 10 * MIB;

/// The address space that the allocator sets aside for a thread, whether it is used or not.
const RESERVED: u64 = 64 * MIB;

/// What a search should have to itself: with less, more threads would only end in more bounds.
const WORTH_A_JOB: u64 = 128 * MIB;

/// What a limit leaves, and what each thread takes of it besides what searches take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Left {
    bytes: u64,
    job: u64,
}

/// The bound for searches on `jobs` threads: `asked`, or the default. `None`: none is known.
pub fn bound(asked: Option<u64>, jobs: usize) -> Option<&'static Memory> {
    let max = asked.or_else(|| share(&left(), jobs))?;
    // One process, one memory.
    Some(Box::leak(Box::new(Memory::new(max))))
}

/// As many of `jobs` threads as the limits have room for, at least one.
fn room(left: &[Left], jobs: usize) -> usize {
    let of = |left: &Left| left.bytes / (left.job + WORTH_A_JOB);
    let most = left.iter().map(of).min().unwrap_or(u64::MAX);
    jobs.min(usize::try_from(most).unwrap_or(usize::MAX)).max(1)
}

fn share(left: &[Left], jobs: usize) -> Option<u64> {
    // Even where threads take all, something is left to begin with.
    let of = |left: &Left| {
        left.bytes.saturating_sub(left.job.saturating_mul(jobs as u64)).max(left.bytes / 8)
    };
    let bytes = left.iter().map(of).min()?;
    Some(bytes / 100 * SHARE)
}

/// What each limit leaves.
#[cfg(target_os = "linux")]
fn left() -> Vec<Left> {
    use procfs::process::{LimitValue, Process};
    use procfs::{Current, Meminfo};

    let mut left = Vec::new();
    let machine = Meminfo::current().ok().and_then(|meminfo| meminfo.mem_available);
    left.extend(machine.map(|bytes| Left { bytes, job: STACKS }));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let groups = groups_leave(&groups, Path::new("/sys/fs/cgroup"));
    left.extend(groups.map(|bytes| Left { bytes, job: STACKS }));
    let Ok(process) = Process::myself() else { return left };
    if let (Ok(limits), Ok(status)) = (process.limits(), process.status()) {
        let mut add = |limit, used: Option<u64>, job| {
            if let LimitValue::Value(limit) = limit {
                let bytes = limit.saturating_sub(used.unwrap_or(0) * 1024);
                left.push(Left { bytes, job });
            }
        };
        add(limits.max_address_space.soft_limit, status.vmsize, STACKS + RESERVED);
        add(limits.max_data_size.soft_limit, status.vmdata, STACKS);
    }
    left
}

/// Other systems are not asked.
#[cfg(not(target_os = "linux"))]
fn left() -> Vec<Left> {
    Vec::new()
}

/// What the control groups in `list`, the text of `/proc/self/cgroup`, leave: those above count,
/// too. `root` is where their files are, of version 2 or 1.
fn groups_leave(list: &str, root: &Path) -> Option<u64> {
    let one = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let second = controllers.is_empty();
        let names = match second {
            true => ["memory.max", "memory.current", "inactive_file"],
            false => ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"],
        };
        let memory = controllers.split(',').any(|name| name == "memory");
        let root = if second { root.to_owned() } else { root.join("memory") };
        // In a container the path may be that outside: what is mounted at the root counts, then.
        let path = root.join(path.trim_start_matches('/'));
        let groups = path.ancestors().take_while(|group| group.starts_with(&root));
        let left = groups.filter_map(|group| group_leaves(group, names)).min();
        left.filter(|_| second || memory)
    };
    list.lines().filter_map(one).min()
}

/// What one control group leaves. What it has of files that nobody uses is given back on demand.
fn group_leaves(group: &Path, [max, used, cache]: [&str; 3]) -> Option<u64> {
    let read = |name: &str| fs::read_to_string(group.join(name)).ok();
    let max: u64 = read(max)?.trim().parse().ok()?;
    let used: u64 = read(used)?.trim().parse().ok()?;
    let stat = read("memory.stat").unwrap_or_default();
    let cache = stat.lines().find_map(|line| line.strip_prefix(cache)?.trim().parse::<u64>().ok());
    Some(max.saturating_sub(used.saturating_sub(cache.unwrap_or(0))))
}

/// The units of sizes, the largest first.
const UNITS: [(&str, u32); 4] = [("T", 40), ("G", 30), ("M", 20), ("K", 10)];

/// `800M`, `4G`, `512MiB` or a plain number of bytes.
///
/// # Errors
///
/// A text that is no size, with those that are.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "not a size; try 800M or 4G".to_owned())?;
    let name = unit.to_ascii_uppercase();
    let name = name.strip_suffix("IB").or_else(|| name.strip_suffix('B')).unwrap_or(&name);
    let shift = match UNITS.iter().find(|(known, _)| *known == name) {
        Some((_, shift)) => *shift,
        None if name.is_empty() => 0,
        None => return Err(format!("'{unit}' is not a unit of size; try K, M, G or T")),
    };
    number.checked_mul(1 << shift).ok_or_else(|| "too large a size".to_owned())
}

/// A size as people read it: `3.5 GiB`.
pub fn size_text(bytes: u64) -> String {
    match UNITS.iter().find(|(_, shift)| bytes >> shift != 0) {
        Some((name, shift)) => {
            let tenths = (u128::from(bytes) * 10) >> shift;
            format!("{}.{} {name}iB", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} bytes"),
    }
}

/// How many threads explore: as many as were `asked` for, or one for each CPU; fewer, and says so,
/// if there is no room for so many.
pub fn jobs(asked: Option<u16>, quiet: bool) -> usize {
    let jobs = match asked {
        Some(jobs) => usize::from(jobs),
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    let fit = room(&left(), jobs);
    if fit < jobs && !quiet {
        say!("note: there is memory for {fit} of {jobs} jobs");
    }
    fit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("4096", 4096),
            ("1k", 1 << 10),
            ("800M", 800 << 20),
            ("2GiB", 2 << 30),
            ("1tb", 1 << 40),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        assert!(size("5X").unwrap_err().contains("try K"));
        assert!(size("").is_err() && size("G").is_err() && size("99999999999T").is_err());
        assert_eq!(size_text(1536 << 20), "1.5 GiB");
        assert_eq!(size_text(1023), "1023 bytes");
    }

    #[test]
    fn the_narrowest_limit_counts_and_each_job_has_its_overhead() {
        let machine = Left { bytes: 1000 * MIB, job: 0 };
        let narrow = Left { bytes: 300 * MIB, job: 100 * MIB };
        assert_eq!(share(&[], 1), None);
        assert_eq!(share(&[machine], 9), Some(1000 * MIB / 100 * 80));
        assert_eq!(share(&[machine, narrow], 1), Some(200 * MIB / 100 * 80));
        assert_eq!(share(&[machine, narrow], 3), Some(300 * MIB / 8 / 100 * 80));
        assert_eq!(
            (
                room(&[], 7),
                room(&[Left { bytes: 512 * MIB, job: 0 }], 7),
                room(&[machine, narrow], 7)
            ),
            (7, 4, 1)
        );
        let wide = Left { bytes: 1000 * MIB, job: 72 * MIB };
        assert_eq!(room(&[machine, wide], 7), 5);
        assert_eq!(room(&[Left { bytes: 0, job: MIB }], 7), 1);
    }

    #[test]
    fn control_groups_of_both_versions_count_with_those_above() {
        let root = std::env::temp_dir().join(format!("kvmmu-groups-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("a/memory.max", "1000\n");
        write("a/memory.current", "300\n");
        write("a/memory.stat", "anon 5\ninactive_file 100\n");
        write("a/b/memory.max", "max\n");
        write("a/b/memory.current", "10\n");
        write("memory/c/memory.limit_in_bytes", "500\n");
        write("memory/c/memory.usage_in_bytes", "100\n");
        assert_eq!(groups_leave("0::/a/b\n", &root), Some(800));
        assert_eq!(groups_leave("0::/elsewhere\n", &root), None);
        assert_eq!(groups_leave("3:cpu:/\n2:memory:/c/d\n0::/a\n", &root), Some(400));
        assert_eq!(groups_leave("2:cpu:/c\n", &root), None);
        fs::remove_dir_all(&root).unwrap();
    }
}
