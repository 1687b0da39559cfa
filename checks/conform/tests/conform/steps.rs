//! Goal: what a kernel may do is explained, races included; what none may do is refused, with the
//! event and the reason. Method: traces of a few lines, made by hand, for both kernels.

use kvmmu_conform::report::Verdict;

use crate::common::{GFN, Layout, PFN, Script, V5_10, V6_1, mapped, storm};

/// [`mapped`], harvested and repaired by the fast fault of vCPU 1: two times.
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
        script.fault(0, GFN + 1, 2).page(0, true);
        script.is_refused(5, "whoever zapped that one is missing");
        let mut script = mapped(layout);
        script.fault(0, GFN + 1, 2).page(0, false).is_explained();
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

#[test]
fn one_fetch_of_the_log_takes_w_once() {
    both(|layout| {
        let (off, on) = (layout.spte(PFN, "HMAD"), layout.spte(PFN, "HMWAD"));
        for op in ["get-dirty-log", "clear-dirty-log"] {
            let mut script = mapped(layout);
            script.user(op, "enter").fast_fault(1, GFN, "fixed", off, on).is_explained();
            script.fast_fault(1, GFN, "fixed", off, on).is_refused(8, "cannot have had");
            // Another call takes it again.
            let mut script = mapped(layout);
            script.user(op, "enter").fast_fault(1, GFN, "fixed", off, on).user(op, "exit");
            script.user(op, "enter").fast_fault(1, GFN, "fixed", off, on).is_explained();
        }
    });
}

#[test]
fn a_thread_that_goes_on_has_left_its_system_call() {
    both(|layout| {
        let why = "has no exit, but its thread goes on";
        let mut script = mapped(layout);
        script.user("get-dirty-log", "enter").is_explained();
        script.user("stop", "at").is_refused(4, why);
        let mut script = mapped(layout);
        script.user("get-dirty-log", "enter").user("get-dirty-log", "enter");
        script.user("get-dirty-log", "exit").is_refused(4, why);
        // A vCPU in the guest is not in another call.
        let mut script = mapped(layout);
        script.event(0, "user", r#""op":"madvise","phase":"enter""#).fault(0, GFN + 1, 2);
        script.is_refused(4, why);
        // Nothing is taken from then on.
        let (off, on) = (layout.spte(PFN, "HMAD"), layout.spte(PFN, "HMWAD"));
        let mut script = mapped(layout);
        script.user("get-dirty-log", "enter").user("stop", "at");
        script.fast_fault(1, GFN, "fixed", off, on).fast_fault(1, GFN, "fixed", off, on);
        assert!(script.judge().unexplained >= 2, "{}", script.judge().text());
        // What a call itself does comes before its exit.
        let mut script = mapped(layout);
        script.user("set-memslot", "enter").zap_page(9).user("set-memslot", "exit");
        script.is_explained();
    });
}

#[test]
fn a_change_of_a_slot_ends_the_duty_of_its_harvests_and_no_others() {
    both(|layout| {
        let on = layout.spte(PFN, "HMWAD");
        let stale = |change: &dyn Fn(&mut Script)| {
            let mut script = mapped(layout);
            change(&mut script);
            script.harvest().fast_fault(1, GFN, "spurious", on, on);
            script
        };
        let other = |op: &str, slot: u32, script: &mut Script| {
            for phase in ["enter", "exit"] {
                let fields = format!(r#""op":"{op}","phase":"{phase}","slot":{slot}"#);
                script.event(9, "user", &fields);
            }
        };
        let why = "cannot have had";
        for op in ["set-memslot-flags", "clear-dirty-log"] {
            // Of this slot, before: the harvest need not take W. Of another: it must.
            stale(&|script| other(op, 0, script)).is_explained();
            stale(&|script| other(op, 7, script)).is_refused(9, why);
            // Of another, later.
            let mut script = stale(&|_| {});
            other(op, 7, &mut script);
            script.is_refused(7, why);
        }
        // A change that comes later does not reach back. Logs that are taken by CLEAR do: GET has
        // left W in all of the run.
        let mut script = stale(&|_| {});
        other("set-memslot-flags", 0, &mut script);
        script.is_refused(7, why);
        let mut script = stale(&|_| {});
        other("clear-dirty-log", 0, &mut script);
        script.is_explained();
    });
}

#[test]
fn hardware_finds_nothing_present_only_where_nothing_was() {
    both(|layout| {
        let why = "hardware found nothing present";
        let (on, again) = (layout.spte(PFN, "HMWAD"), layout.spte(PFN, "HMWA"));
        // 5.10 tells of an SPTE that did not change, 6.1 of one that lost D.
        let again = if layout.kernel.starts_with("5.10") { on } else { again };
        let mut script = mapped(layout);
        script.fault(0, GFN, 2).set(0, GFN, again).is_refused(4, why);
        // Two faults at once.
        let mut script = Script::new(layout);
        script.fault(0, GFN, 2).page(0, true).fault(1, GFN, 2).set(0, GFN, on);
        script.set(1, GFN, again).is_explained();
        // The table was zapped, or the way to it.
        let mut script = mapped(layout);
        script.zap_page(9).fault(0, GFN, 2).is_explained();
        let upper = r#""mmu_valid_gen":0,"gfn":"0x0","role":1922"#;
        let mut script = mapped(layout);
        script.event(0, "kvm_mmu_get_page", &format!("{upper},\"created\":1"));
        script.event(9, "kvm_mmu_prepare_zap_page", upper).fault(0, GFN, 2).is_explained();
        let gaps = script.judge().not_checked;
        assert!(gaps.iter().any(|gap| gap.contains("upper page is zapped at line 6")), "{gaps:?}");
    });
}

#[test]
fn what_is_too_much_to_follow_is_inconclusive() {
    both(|layout| {
        storm(layout, 6, "fixed").is_explained();
        for (threads, ret, why) in [
            (26, "fixed", "more than 4096 states"),
            (40, "fixed", "more than 4096 states"),
            (40, "spurious", "more than 32 events"),
        ] {
            let report = storm(layout, threads, ret).judge();
            assert_eq!(report.verdict(), Verdict::Inconclusive, "{}", report.text());
            assert_eq!(report.unexplained, 0);
            let gave_up = report.gave_up.as_ref().expect("it says where");
            assert!(gave_up.why.contains(why), "{}", gave_up.why);
            assert!(report.text().contains("INCONCLUSIVE, first at line "), "{}", report.text());
        }
        // What is wrong for certain is said all the same.
        let mut script = storm(layout, 26, "fixed");
        script.zap_page(50).zap_page(50);
        assert_eq!(script.judge().verdict(), Verdict::Unexplained);
    });
}

#[test]
fn without_anything_to_judge_nothing_is_explained() {
    both(|layout| {
        let mut script = Script::new(layout);
        for _ in 0..2 {
            let report = script.judge();
            assert_eq!(report.verdict(), Verdict::NothingToJudge, "{}", report.text());
            assert!(!report.text().contains("EXPLAINED"), "{}", report.text());
            script.harvest().fault(0, GFN, 2);
        }
    });
}

#[test]
fn rules_that_cannot_be_applied_are_named() {
    both(|layout| {
        let gap = |script: &Script, part: &str| {
            let report = script.judge();
            let text = report.text();
            let said = report.not_checked.iter().any(|gap| gap.contains(part));
            assert!(said && text.contains("  not checked: "), "no '{part}': {text}");
            assert!(text.contains("EXPLAINED as far as it could be checked"), "{text}");
        };
        for kind in [
            "fast_page_fault",
            "kvm_mmu_set_spte",
            "kvm_page_fault",
            "kvm_mmu_get_page",
            "kvm_mmu_prepare_zap_page",
            "kvm_unmap_hva_range",
        ] {
            let mut script = harvested(layout);
            script.fault(0, GFN + 1, 2);
            script.lines.retain(|line| !line.contains(&format!("\"{kind}\"")));
            let report = script.judge();
            let gap = format!(": no {kind}");
            assert!(report.not_checked.iter().any(|g| g.ends_with(&gap)), "{}", report.text());
        }
        let mut script = mapped(layout);
        gap(&script, "no whole get-dirty-log");
        script.event(9, "kvm_unmap_hva_range", r#""start":"0x1000","end":"0x2000""#);
        gap(&script, "no hva of slot 0");
        script.user("set-memslot-flags", "enter");
        gap(&script, "user space changes slot 0 at line 6");
        script.user("set-memslot-flags", "exit").user("clear-dirty-log", "enter");
        gap(&script, "clear-dirty-log (line 8)");
        script.logged = false;
        gap(&script, "no logged slot");
    });
}
