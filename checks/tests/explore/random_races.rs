//! Goal: on scenarios that nobody wrote, dpor and stateful see what naive sees.
//! Method: random small scenarios as text, through the loader: one or two vCPUs and perhaps the
//! host or user space, one operation each, over every layout, initial SPTE and set of missing
//! guards. Operations that take the fewest steps come most often: naive takes every interleaving
//! one by one, and two page faults at once are beyond it. Where it finishes, everything must agree:
//! violations, witnesses, states, final states, traces. Where it does not, what it saw must be
//! among what the others see, and those two must agree with each other. How many cases of each kind
//! there have to be is asserted.

use std::collections::BTreeSet;
use std::fmt::Write;

use kvmmu_model::Guard;
use kvmmu_sim::rule::Rule;
use proptest::prelude::*;

use crate::random::{AtLeast, Random, compare, compare_all, violated};

/// How many scenarios there are.
const CASES: u32 = 300;
const AT_LEAST: AtLeast = AtLeast { naive: 100, dpor: 20, broken: 20 };

/// A thread with one operation. Frames 1 and 2 are data, 3 the guest's leaf table, 4 its root.
#[derive(Clone, Copy, Debug)]
enum Vcpu {
    Direct(&'static str),
    Shadow(&'static str),
}

#[derive(Clone, Debug)]
struct Case {
    format: &'static str,
    vcpus: Vec<Vcpu>,
    /// Kind and operation of the last thread.
    other: Option<(&'static str, &'static str)>,
    log: bool,
    /// H, M, W; accessed, dirty or tracked; cached.
    map: Option<(&'static str, bool, bool, bool)>,
    always: &'static [&'static str],
    without: Vec<Guard>,
}

impl Random for Case {
    fn without(&self) -> &[Guard] {
        &self.without
    }

    fn text(&self) -> String {
        let shadow = self.vcpus.iter().any(|v| matches!(v, Vcpu::Shadow(_)));
        let mut t = String::from("title = \"t\"\nsource = \"s\"\nabout = \"a\"\n");
        let _ = writeln!(t, "paging = \"direct\"\nspte = \"{}\"\n[host]\npages = 6", self.format);
        let _ = writeln!(t, "[[slot]]\ngfn = 1\npages = 4\nlog = {}", self.log);
        if shadow {
            t += "[guest]\nroot = \"gfn4\"\n\"gfn4\" = [\"gfn3 w\"]\n\"gfn3\" = [\"gfn1 w\"]\n";
        }
        if let Some(map) = self.map {
            let direct = self.vcpus.iter().any(|v| matches!(v, Vcpu::Direct(_)));
            let _ = writeln!(t, "[map]");
            let addresses = [("gfn1", direct), ("gva0", shadow)];
            for (address, _) in addresses.iter().filter(|(_, used)| *used) {
                let _ = writeln!(t, "\"{address}\" = {}", self.spte(map));
            }
        }
        for (i, vcpu) in self.vcpus.iter().enumerate() {
            let (paging, op) = match vcpu {
                Vcpu::Direct(op) => ("direct", op),
                Vcpu::Shadow(op) => ("shadow", op),
            };
            let _ = writeln!(t, "[[thread]]\nname = \"vcpu{i}\"\npaging = \"{paging}\"");
            let _ = writeln!(t, "run = [\"{op}\"]");
        }
        if let Some((kind, op)) = self.other {
            let _ = writeln!(t, "[[thread]]\nname = \"{kind}\"\nrun = [\"{op}\"]");
        }
        if self.log {
            t += "[at-stop]\nrun = [\"get-dirty-log slot0\", \"copy-harvested\"]\n";
        }
        // Without a dirty log there is no migration to watch.
        let watched = self.always.iter().filter(|p| self.log || **p != "migration");
        let always: Vec<&str> = watched.copied().chain(["deadlock"]).collect();
        let _ = writeln!(t, "[check]\nalways = {always:?}");
        t + "sometimes = [\"fast-fault-read < spte-zapped\", \"spte-set < write-protected\"]\n"
    }
}

impl Case {
    /// An SPTE of `[map]` that the format can have.
    fn spte(&self, (hmw, first, second, cached): (&str, bool, bool, bool)) -> String {
        let w = hmw.ends_with('1');
        if self.format == "ept-no-ad" {
            let tracked = first && !w;
            let cached = cached && !tracked;
            return format!(
                "{{ pfn = 0, spte = \"{hmw}\", tracked = {tracked}, cached = {cached} }}"
            );
        }
        let (accessed, dirty, cached) = (first, second, cached && first);
        let bits = format!("accessed = {accessed}, dirty = {dirty}, cached = {cached}");
        format!("{{ pfn = 0, spte = \"{hmw}\", {bits} }}")
    }
}

fn vcpu() -> impl Strategy<Value = Vcpu> {
    let direct = ["read gfn1", "write gfn1", "fetch gfn1", "write gfn2", "prefault gfn1"];
    let shadow = ["read gva0", "write gva0", "set-gpte gva0[0] gfn2", "emulate-gpte gfn3[0] gfn2"];
    prop_oneof![
        6 => prop::sample::select(direct.to_vec()).prop_map(Vcpu::Direct),
        1 => prop::sample::select(shadow.to_vec()).prop_map(Vcpu::Shadow),
        2 => Just(Vcpu::Shadow("invlpg gva0")),
    ]
}

fn other() -> impl Strategy<Value = (&'static str, &'static str)> {
    let long = ["swap-out gfn1", "ksm-merge gfn2 gfn1", "change-pte gfn1 pfn4", "cow-break gfn1"];
    let short = ["clear-young gfn1", "swap-in gfn1", "age gfn1", "shrink"];
    prop_oneof![
        1 => prop::sample::select(long.to_vec()).prop_map(|op| ("host", op)),
        2 => prop::sample::select(short.to_vec()).prop_map(|op| ("host", op)),
        1 => prop::sample::select(vec!["get-dirty-log slot0", "swap-out gfn1"])
            .prop_map(|op| ("user", op)),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let format = prop::sample::select(vec!["ept", "ept-no-ad", "npt"]);
    let hmw = prop::sample::select(vec!["111", "110", "110", "100", "000"]);
    let map = prop::option::weighted(0.8, (hmw, any::<bool>(), any::<bool>(), any::<bool>()));
    let guards = prop::sample::select(Guard::ALL.to_vec());
    let threads = prop_oneof![
        5 => (prop::collection::vec(vcpu(), 1), other().prop_map(Some)),
        2 => (prop::collection::vec(vcpu(), 2), Just(None)),
        1 => (prop::collection::vec(vcpu(), 2), other().prop_map(Some)),
    ];
    // What can be violated at the end only lets traces be compared one to one.
    let at_end: &[&str] = &["migration"];
    let all: &[&str] = &[
        "migration",
        "swap",
        "pfn-safety",
        "shadowed-pt-readonly",
        "host-readonly",
        "spte-legal",
        "rmap-exact",
    ];
    // Any write of the guest is a violation: a cheap one, in the middle of executions.
    let writes: &[&str] = &["migration", "guest-never-writes"];
    let always = prop_oneof![2 => Just(at_end), 2 => Just(all), 1 => Just(writes)];
    let without = prop::collection::vec(guards, 0..=3);
    (format, threads, any::<bool>(), map, always, without).prop_map(
        |(format, (vcpus, other), log, map, always, without)| Case {
            format,
            vcpus,
            other,
            log,
            map,
            always,
            without,
        },
    )
}

#[test]
fn dpor_and_stateful_see_what_naive_sees_in_random_scenarios() {
    compare_all(CASES, &case(), AT_LEAST);
}

/// Found by the test above: with the sequence number read as 1, "the page was looked up" and
/// "number and page are known" had one hash and one site, that of a caller, and so one key.
#[test]
fn a_key_tells_apart_two_places_that_have_one_site() {
    let case = Case {
        format: "npt",
        vcpus: vec![Vcpu::Direct("read gfn1")],
        other: Some(("user", "swap-out gfn1")),
        log: false,
        map: None,
        always: &["migration"],
        without: vec![Guard::NotifierSeqBeforeGup],
    };
    compare(&case.race());
}

/// Found by the test above: the access that finds freed memory ended the execution before it was
/// noted what it touched, so that dpor never let it come before the free.
#[test]
fn an_access_to_freed_memory_races_with_what_freed_it() {
    let case = Case {
        format: "ept-no-ad",
        vcpus: vec![Vcpu::Direct("fetch gfn1")],
        other: Some(("host", "shrink")),
        log: false,
        map: Some(("110", true, false, false)),
        always: &["migration"],
        without: vec![Guard::LocklessWalkMode],
    };
    let outcome = compare(&case.race());
    assert_eq!(violated(&outcome), BTreeSet::from([Rule::USE_AFTER_FREE]));
}
