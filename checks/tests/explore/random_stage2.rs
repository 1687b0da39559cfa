//! Goal: as for shadow pages (`random_races.rs`), on the stage-2 MMU of arm64, each version.
//! Method: one or two vCPUs, and the host or user space, one operation each, over a huge page of
//! the host, over what is mapped at first, and sets of missing guards. A vCPU does not have to
//! fault: a descriptor that it has cached is enough, and naive comes to an end of that.

use std::fmt::Write;

use kvmmu_model::Guard;
use proptest::prelude::*;

use crate::random::{AtLeast, Random, compare_all};

const CASES: u32 = 100;
const AT_LEAST: AtLeast = AtLeast { naive: 20, dpor: 10, broken: 8 };

#[derive(Clone, Debug)]
struct Case {
    profile: &'static str,
    vcpus: Vec<&'static str>,
    /// Kind and operation of the last thread.
    other: Option<(&'static str, &'static str)>,
    huge: bool,
    log: bool,
    map: Option<(&'static str, bool, bool)>,
    bbm: bool,
    without: Vec<Guard>,
}

impl Random for Case {
    fn without(&self) -> &[Guard] {
        &self.without
    }

    fn text(&self) -> String {
        let mut t = String::from("title = \"t\"\nsource = \"s\"\nabout = \"a\"\n");
        let _ = writeln!(t, "profile = \"{}\"\n[host]\npages = 6", self.profile);
        if self.huge {
            t += "huge = [\"gfn0\"]\n";
        }
        let _ = writeln!(t, "[[slot]]\ngfn = 0\npages = 4\nlog = {}", self.log);
        if let Some((pte, block, cached)) = self.map {
            let block = block && self.huge;
            let (gfn, pte) = if block { (0, if self.log { "r" } else { pte }) } else { (1, pte) };
            let bits = format!("pte = \"{pte}\", cached = {cached}, block = {block}");
            let _ = writeln!(t, "[map]\n\"gfn{gfn}\" = {{ pfn = {gfn}, {bits} }}");
        }
        for (i, op) in self.vcpus.iter().enumerate() {
            let _ = writeln!(t, "[[thread]]\nname = \"vcpu{i}\"\nrun = [\"{op}\"]");
        }
        if let Some((kind, op)) = self.other {
            let _ = writeln!(t, "[[thread]]\nname = \"{kind}\"\nrun = [\"{op}\"]");
        }
        if self.log {
            t += "[at-stop]\nrun = [\"get-dirty-log slot0\", \"copy-harvested\"]\n";
        }
        let mut always = vec!["pfn-safety", "table-refcount"];
        always.extend(self.bbm.then_some("bbm"));
        always.extend(self.log.then_some("migration"));
        let _ = writeln!(t, "[check]\nalways = {always:?}");
        t + "sometimes = [\"stage2-mapped < write-protected\", \"table-linked < host-unmapped\"]\n"
    }
}

fn case() -> impl Strategy<Value = Case> {
    let vcpu = prop::sample::select(vec!["read gfn0", "write gfn0", "read gfn1", "write gfn1"]);
    let others = vec![
        ("host", "swap-out gfn1"),
        ("host", "swap-out gfn0"),
        ("host", "clear-young gfn1"),
        ("host", "age gfn1"),
        ("user", "get-dirty-log slot0"),
    ];
    let other = prop::sample::select(others);
    let threads = prop_oneof![
        5 => (prop::collection::vec(vcpu.clone(), 1), other.prop_map(Some)),
        1 => (prop::collection::vec(vcpu, 2), Just(None)),
    ];
    let pte = prop::sample::select(vec!["rw", "r"]);
    let map = prop::option::weighted(0.8, (pte, any::<bool>(), any::<bool>()));
    let here: Vec<Guard> = Guard::ALL
        .iter()
        .copied()
        .filter(|guard| {
            let name = guard.info().name;
            name.starts_with("s2-") || name.starts_with("notifier-") || name.starts_with("harvest")
        })
        .collect();
    let without = prop::collection::vec(prop::sample::select(here), 0..=3);
    let profile = prop::sample::select(vec!["arm64-v5.10", "arm64-v6.1", "arm64-v6.12"]);
    (profile, threads, any::<bool>(), any::<bool>(), map, any::<bool>(), without).prop_map(
        |(profile, (vcpus, other), huge, log, map, bbm, without)| Case {
            profile,
            vcpus,
            other,
            huge,
            log,
            map,
            bbm,
            without,
        },
    )
}

#[test]
fn dpor_and_stateful_see_what_naive_sees_on_stage_2() {
    compare_all(CASES, &case(), AT_LEAST);
}
