//! Where vCPUs run: on CPUs of one kind.
//!
//! On big.LITTLE a VM must stay on the cluster that it was made on, and a comparison of CPUs of two
//! kinds means nothing. On a machine with one kind nothing is pinned.

use std::collections::BTreeMap;
use std::fs;

use rustix::thread::CpuSet;

/// What tells two kinds of CPU apart.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Kind {
    capacity: u64,
    midr: String,
}

/// The CPUs of one kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cluster {
    /// Their numbers.
    pub cpus: Vec<usize>,
    /// What they are.
    pub name: String,
}

/// The clusters of this machine, the fastest first; one or none: all CPUs are of one kind.
pub fn clusters() -> Vec<Cluster> {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let mut kinds: BTreeMap<Kind, Vec<usize>> = BTreeMap::new();
    for cpu in parse_list(online.trim()).unwrap_or_default() {
        let read = |file: &str| {
            let path = format!("/sys/devices/system/cpu/cpu{cpu}/{file}");
            fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
        };
        let capacity = read("cpu_capacity").parse().unwrap_or(0);
        let midr = read("regs/identification/midr_el1");
        kinds.entry(Kind { capacity, midr }).or_default().push(cpu);
    }
    let cluster = |(kind, cpus): (Kind, Vec<usize>)| {
        let name = format!("midr {} capacity {}", kind.midr, kind.capacity);
        Cluster { cpus, name }
    };
    kinds.into_iter().rev().map(cluster).collect()
}

/// Lets the calling thread, and what it starts, run on these CPUs only.
///
/// # Errors
///
/// Those of sched_setaffinity.
pub fn pin(cpus: &[usize]) -> std::io::Result<()> {
    let mut set = CpuSet::new();
    cpus.iter().filter(|cpu| **cpu < CpuSet::MAX_CPU).for_each(|cpu| set.set(*cpu));
    rustix::thread::sched_setaffinity(None, &set).map_err(Into::into)
}

/// A list such as `0-3,6`.
pub fn parse_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cpus.extend(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(parse_list("0-3,6"), Some(vec![0, 1, 2, 3, 6]));
        assert_eq!(parse_list("2"), Some(vec![2]));
        assert_eq!(parse_list("many"), None);
    }

    #[test]
    fn this_machine_has_a_cluster() {
        let clusters = clusters();
        assert!(clusters.iter().map(|c| c.cpus.len()).sum::<usize>() > 0);
    }
}
