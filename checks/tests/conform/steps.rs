//! Goal: what a kernel may do is explained, races included; what none may do is refused, with the
//! event and the reason. Method: traces of a few lines, made by hand, for both kernels.

use crate::common::{Layout, Script, V5_10, V6_1};

const GFN: u64 = 0x205;
const PFN: u64 = 0x1234;

/// A page that was mapped by a write fault of vCPU 0.
fn mapped(layout: Layout) -> Script {
    let mut script = Script::new(layout);
    script.fault(0, GFN, 2).page(0, true).set(0, GFN, layout.spte(PFN, "HMWAD"));
    script
}

/// The same, harvested and repaired by the fast fault of vCPU 1: two times.
fn harvested(layout: Layout) -> Script {
    let (off, on) = (layout.spte(PFN, "HMAD"), layout.spte(PFN, "HMWAD"));
    let mut script = mapped(layout);
    script.harvest().fast_fault(1, GFN, "fixed", off, on);
    script.harvest().fast_fault(1, GFN, "fixed", off, on);
    script
}

fn both(test: impl Fn(Layout)) {
    test(V5_10);
    test(V6_1);
}

#[test]
fn harvests_and_fast_faults_are_explained() {
    both(|layout| harvested(layout).is_explained());
}

#[test]
fn hardware_sets_a_and_d_whenever_it_may() {
    both(|layout| {
        let s = |letters| layout.spte(PFN, letters);
        // A neighbour that nobody asked for is not accessed yet.
        let next = |letters| layout.spte(PFN + 1, letters);
        let mut script = mapped(layout);
        script.logged = false;
        script.set(0, GFN + 1, next("HMWD")).harvest();
        script.fast_fault(1, GFN + 1, "fixed", next("HMD"), next("HMWAD"));
        script.is_explained();
        // D does not vanish by itself.
        let mut script = mapped(layout);
        script.harvest().fast_fault(1, GFN, "fixed", s("HMA"), s("HMWA"));
        script.is_refused(7, "cannot have had");
    });
}

#[test]
fn a_spurious_fault_may_be_told_of_before_the_one_that_repaired_the_spte() {
    both(|layout| {
        let (off, on) = (layout.spte(PFN, "HMAD"), layout.spte(PFN, "HMWAD"));
        let mut script = mapped(layout);
        script.harvest().fault(0, GFN, 3).fault(1, GFN, 3);
        script.fast(0, GFN, "spurious", on, on).fast(1, GFN, "fixed", off, on);
        script.is_explained();
        // But not if the repair began later.
        let mut script = mapped(layout);
        script.harvest().fault(0, GFN, 3).fast(0, GFN, "spurious", on, on);
        script.fault(1, GFN, 3).fast(1, GFN, "fixed", off, on);
        script.is_refused(7, "cannot have had");
    });
}

#[test]
fn the_spte_may_be_harvested_again_before_the_event_reads_it() {
    both(|layout| {
        let (off, on) = (layout.spte(PFN, "HMAD"), layout.spte(PFN, "HMWAD"));
        let mut script = mapped(layout);
        script.harvest().fault(1, GFN, 3).user("get-dirty-log", "enter");
        script.fast(1, GFN, "fixed", off, off).user("get-dirty-log", "exit");
        script.fault(1, GFN, 3).fast(1, GFN, "fixed", off, on);
        script.is_explained();
        // Without a harvest nobody takes W back.
        let mut script = mapped(layout);
        script.harvest().fast_fault(1, GFN, "fixed", off, off).fault(1, GFN, 2);
        script.is_refused(7, "no step that is possible here");
    });
}

#[test]
fn pages_that_the_host_takes_back_come_again_with_another_page() {
    both(|layout| {
        let mut script = mapped(layout);
        script.user("madvise", "enter").user("madvise", "exit");
        script.fault(0, GFN, 2).set(0, GFN, layout.spte(PFN + 8, "HMWAD"));
        script.is_explained();
        let mut script = mapped(layout);
        script.fault(1, GFN, 2).set(1, GFN, layout.spte(PFN + 8, "HMWAD"));
        // The host breaks a shared page inside of the very fault.
        script.is_explained();
        let mut script = mapped(layout);
        script.fault(1, GFN, 0).set(1, GFN, layout.spte(PFN + 8, "HMWAD"));
        script.is_refused(5, "present here with another page");
    });
}

#[test]
fn a_zapped_table_is_empty_and_may_become_another() {
    both(|layout| {
        let on = layout.spte(PFN, "HMWAD");
        let mut script = mapped(layout);
        script.zap_page(9).user("run", "at").fault(0, GFN, 2).page(0, true).set(0, GFN, on);
        script.is_explained();
        let mut script = mapped(layout);
        script.zap_page(9).user("run", "at").fast_fault(1, GFN, "spurious", on, on);
        script.is_refused(7, "no kvm_mmu_set_spte made it");
        let mut script = mapped(layout);
        script.fault(0, GFN, 2).page(0, true);
        script.is_refused(5, "whoever zapped that one is missing");
        let mut script = mapped(layout);
        script.fault(0, GFN, 2).page(0, false).is_explained();
        script.zap_page(0).zap_page(0).is_refused(7, "no page of frame 0x200");
    });
}

#[test]
fn w_needs_h_and_m() {
    both(|layout| {
        for (letters, why) in
            [("HWAD", "W without M"), ("WAD", "W without H"), ("MA", "M without H")]
        {
            let mut script = Script::new(layout);
            script.fault(0, GFN, 2).page(0, true).set(0, GFN, layout.spte(PFN, letters));
            script.is_refused(3, why);
        }
    });
}

#[test]
fn a_write_fault_maps_the_page_writable() {
    both(|layout| {
        let mut script = Script::new(layout);
        script.fault(0, GFN, 2).page(0, true).set(0, GFN, layout.spte(PFN, "A"));
        script.is_refused(3, "make_spte gives nothing here");
        let mut script = Script::new(layout);
        script.fault(0, GFN, 0).page(0, true).set(0, GFN, layout.spte(PFN, "A"));
        script.is_explained();
        script.fast_fault(1, GFN, "refused", layout.spte(PFN, "A"), layout.spte(PFN, "A"));
        script.is_explained();
    });
}

#[test]
fn fast_faults_are_recomputed() {
    both(|layout| {
        let s = |letters: &str| layout.spte(PFN, letters);
        let wrong = |ret: &str, old: &str, new: &str, why: &str| {
            let mut script = mapped(layout);
            script.harvest().fast_fault(1, GFN, ret, s(old), s(new));
            script.is_refused(7, why);
        };
        wrong("spurious", "HMAD", "HMWAD", "the model's fast fault repairs it");
        wrong("fixed", "HMWAD", "HMWAD", "allows the access already");
        wrong("fixed", "HAD", "HWAD", "W without M");
        wrong("fixed", "HAD", "HAD", "refuses to repair it");
        let mut script = mapped(layout);
        script
            .harvest()
            .fast_fault(1, GFN, "fixed", s("HMAD"), s("HMWAD") | 1 << 62)
            .fault(1, GFN, 2);
        script.is_refused(7, "no step that is possible here");
        // Giving up is for those whose cmpxchg failed five times.
        let mut script = mapped(layout);
        script.harvest().fast_fault(1, GFN, "refused", s("HMAD"), s("HMAD"));
        script.is_refused(7, "nobody can have replaced");
    });
}

#[test]
fn faults_and_fast_faults_go_in_pairs() {
    both(|layout| {
        let on = layout.spte(PFN, "HMWAD");
        let mut script = mapped(layout);
        script.fault(1, GFN, 3).fault(1, GFN, 3).fast(1, GFN, "spurious", on, on);
        script.is_refused(4, "not its fast_page_fault");
        let mut script = mapped(layout);
        script.fast(1, GFN, "spurious", on, on);
        script.is_refused(4, "does not belong to");
        let mut script = mapped(layout);
        script.user("get-dirty-log", "exit").is_refused(4, "ends what did not begin");
        // What changes no SPTE may end without a beginning: the recorder began later.
        let mut script = mapped(layout);
        script.user("relog", "exit").user("of-another-version", "exit").is_explained();
    });
}

#[test]
fn places_are_those_of_frames() {
    both(|layout| {
        let on = layout.spte(PFN, "HMWAD");
        let mut script = mapped(layout);
        script.lines[2] = script.lines[2].replace("0x205", "0x206");
        script.is_refused(3, "does not map frame 0x206");
        let mut script = mapped(layout);
        script.fast_fault(1, GFN, "spurious", on, on);
        script.lines[4] = script.lines[4]
            .replace(r#""sptep":"0xffff88800007f028""#, r#""sptep":"0xffff88800007f030""#);
        script.is_refused(5, "does not end at entry 6");
    });
}

#[test]
fn only_6_1_tells_of_changes_alone() {
    let on = V5_10.spte(PFN, "HMWAD");
    mapped(V5_10).fault(1, GFN, 2).set(1, GFN, on).is_explained();
    let mut script = Script::new(V6_1);
    let readable = V6_1.spte(PFN, "A");
    script.fault(0, GFN, 0).page(0, true).set(0, GFN, readable).fault(1, GFN, 0);
    script.set(1, GFN, readable).is_refused(5, "make_spte gives nothing here");
}

#[test]
fn the_second_of_two_faults_clears_d_in_6_1() {
    let second = |layout: Layout, letters| {
        let mut script = mapped(layout);
        script.fault(1, GFN, 2).set(1, GFN, layout.spte(PFN, letters));
        script
    };
    second(V6_1, "HMWA").is_explained();
    second(V6_1, "HMWAD").is_explained();
    second(V5_10, "HMWA").is_refused(5, "make_spte gives nothing here");
}

#[test]
fn a_harvest_takes_w_from_what_it_finds_writable() {
    both(|layout| {
        let (off, on) = (layout.spte(PFN, "HMAD"), layout.spte(PFN, "HMWAD"));
        let mut script = mapped(layout);
        script.harvest().fast_fault(1, GFN, "spurious", on, on);
        script.is_refused(7, "cannot have had");
        // Made writable, but not marked before the harvest: the event comes after the mark.
        let mut script = mapped(layout);
        script.harvest().fault(1, GFN, 3).harvest().fast(1, GFN, "fixed", off, on);
        script.fast_fault(0, GFN, "spurious", on, on).is_explained();
        let mut script = mapped(layout);
        script.harvest().fault(1, GFN, 3).fast(1, GFN, "fixed", off, on).harvest();
        script.fast_fault(0, GFN, "spurious", on, on).is_refused(11, "cannot have had");
    });
}

#[test]
fn an_spte_is_set_by_a_fault_that_asks_for_it() {
    both(|layout| {
        let mut script = mapped(layout);
        script.set(0, GFN, layout.spte(PFN, "HMWAD")).is_refused(4, "no fault of its thread");
        let mut script = mapped(layout);
        // Neighbours are mapped where nobody logs.
        let neighbour = layout.spte(PFN + 1, "HMWD");
        script.set(0, GFN + 1, neighbour).is_refused(4, "no fault of its thread");
        script.logged = false;
        script.is_explained();
        script.set(0, GFN + 8, neighbour).is_refused(5, "no fault of its thread");
        script.lines.swap(2, 3);
        script.is_refused(3, "no fault of its thread");
    });
}

#[test]
fn many_vcpus_at_one_spte_are_followed() {
    both(|layout| {
        let (off, on) = (layout.spte(PFN, "HMAD"), layout.spte(PFN, "HMWAD"));
        let mut script = mapped(layout);
        script.harvest();
        for cpu in 10..34 {
            script.fault(cpu, GFN, 3);
        }
        for cpu in 10..33 {
            script.fast(cpu, GFN, "spurious", on, on);
        }
        script.fast(33, GFN, "fixed", off, on).is_explained();
    });
}
