//! Goal: as for stage 2 (`random_stage2.rs`), where vCPUs have VMIDs, of one VM or of two. Method:
//! two vCPUs, one of which may come to the CPU of the other, sometimes the host, sets of missing
//! guards, and CPUs with the errata of TLBI or without.

use std::fmt::Write;

use kvmmu_model::Guard;
use proptest::prelude::*;

use crate::random::{AtLeast, Random, compare_all};

const CASES: u32 = 100;
const AT_LEAST: AtLeast = AtLeast { naive: 10, dpor: 20, broken: 8 };

#[derive(Clone, Debug)]
struct Case {
    profile: &'static str,
    vcpu0: &'static str,
    /// Of which VM the other one is, and what it does.
    vcpu1: (u8, &'static str),
    swaps: bool,
    given: bool,
    cached: bool,
    early: bool,
    without: Vec<Guard>,
}

impl Random for Case {
    fn without(&self) -> &[Guard] {
        &self.without
    }

    fn text(&self) -> String {
        let mut t = String::from("title = \"t\"\nsource = \"s\"\nabout = \"a\"\n");
        let _ = writeln!(t, "profile = \"{}\"\nearly-completion = {}", self.profile, self.early);
        let _ = writeln!(t, "[vmid]\nbits = 2\ngiven = {}", self.given);
        let cached = self.cached && self.given;
        t += "[host]\npages = 2\n[[slot]]\ngfn = 0\npages = 1\n";
        let _ = writeln!(t, "[map]\n\"gfn0\" = {{ pfn = 0, pte = \"rw\", cached = {cached} }}");
        let (vm, run) = self.vcpu1;
        let _ = writeln!(t, "[[thread]]\nname = \"vcpu0\"\nrun = {}", self.vcpu0);
        let _ = writeln!(t, "[[thread]]\nname = \"vcpu1\"\nvm = {vm}\nrun = {run}");
        if self.swaps {
            t += "[[thread]]\nname = \"host\"\nrun = [\"swap-out gfn0\"]\n";
        }
        t + "[check]\nalways = [\"pfn-safety\", \"vm-isolation\", \"table-refcount\"]\n\
             sometimes = [\"vmid-rollover < vttbr-loaded\", \"vcpu-moved\"]\n"
    }
}

fn case() -> impl Strategy<Value = Case> {
    let vcpu0 = vec!["[\"read gfn0\"]", "[\"write gfn0\"]"];
    let vcpu1 = vec![
        (0, "[\"write gfn0\"]"),
        (0, "[\"move-to vcpu0\", \"write gfn0\"]"),
        (1, "[\"write gfn0\"]"),
        (1, "[\"move-to vcpu0\", \"write gfn0\"]"),
        (0, "[\"move-to vcpu0\", \"read gfn0\"]"),
        (1, "[\"read gfn0\"]"),
        (1, "[\"read gfn0\", \"new-vm\", \"write gfn0\"]"),
        (1, "[\"read gfn0\", \"move-to vcpu0\", \"read gfn0\"]"),
    ];
    let here: Vec<Guard> = Guard::ALL
        .iter()
        .copied()
        .filter(|guard| guard.info().name.starts_with("vmid-"))
        .chain([Guard::S2TlbiRepeat, Guard::S2TlbiWait, Guard::S2TlbiCombined])
        .collect();
    let profile = prop::sample::select(vec!["arm64-v5.10", "arm64-v6.1", "arm64-v6.12"]);
    let vcpus = (prop::sample::select(vcpu0), prop::sample::select(vcpu1));
    let mostly = || prop::bool::weighted(0.8);
    let hardware = (mostly(), mostly(), any::<bool>());
    let without = prop::collection::vec(prop::sample::select(here), 1..=4);
    let swaps = prop::bool::weighted(0.2);
    (profile, vcpus, swaps, hardware, without).prop_map(
        |(profile, (vcpu0, vcpu1), swaps, (given, cached, early), without)| Case {
            profile,
            vcpu0,
            vcpu1,
            swaps,
            given,
            cached,
            early,
            without,
        },
    )
}

#[test]
fn dpor_and_stateful_see_what_naive_sees_with_vmids() {
    compare_all(CASES, &case(), AT_LEAST);
}
