//! Goal: where kernels differ in what an SPTE may become, the model differs as they do, and nowhere
//! else. Method: both versions on the same values, one test for each difference.

use kvmmu_model::{
    Access, Algorithm, FastFault, Guard, NewLeaf, Pfn, Spte, SpteFormat, Transitions,
};

use Access::{Fetch, Read, Write};
use Algorithm::{V5_10, V6_1};

type Steps = Transitions<'static, fn(Guard) -> bool>;

static NPT: SpteFormat = SpteFormat::NPT;
static EPT: SpteFormat = SpteFormat::EPT;
static EPT_NO_AD: SpteFormat = SpteFormat::EPT_NO_AD;

fn steps(format: &'static SpteFormat, algorithm: Algorithm) -> Steps {
    Transitions { format, algorithm, guard: |_| true }
}

fn without(format: &'static SpteFormat, algorithm: Algorithm, guard: fn(Guard) -> bool) -> Steps {
    Transitions { format, algorithm, guard }
}

/// A leaf that is accessed and dirty, with these letters of `HMW`.
fn leaf(format: &SpteFormat, letters: &str) -> Spte {
    let bit = |letter| match letter {
        'H' => format.host_writable_mask,
        'M' => format.mmu_writable_mask,
        'W' => format.writable_mask,
        _ => panic!("no bit is called {letter}"),
    };
    let bits = letters.chars().map(bit).fold(0, |bits, bit| bits | bit);
    format.leaf(Pfn(5)).with(bits | format.accessed_mask | format.dirty_mask)
}

#[test]
fn which_faults_can_be_fast() {
    // access, present; then 5.10 and 6.1 on EPT, EPT without A/D bits, NPT
    let table = [
        (Read, false, [(true, false), (true, true), (false, false)]),
        (Write, false, [(true, false), (true, true), (false, false)]),
        (Fetch, false, [(true, false), (true, true), (false, false)]),
        (Read, true, [(true, false), (true, false), (false, false)]),
        (Write, true, [(true, true), (true, true), (true, true)]),
        (Fetch, true, [(false, false), (false, false), (false, false)]),
    ];
    for (access, present, expected) in table {
        for (format, (old, new)) in [&EPT, &EPT_NO_AD, &NPT].into_iter().zip(expected) {
            let can = |algorithm| steps(format, algorithm).page_fault_can_be_fast(access, present);
            let name = format.name;
            assert_eq!(can(V5_10), old, "5.10 {name} {access:?} present={present}");
            assert_eq!(can(V6_1), new, "6.1 {name} {access:?} present={present}");
        }
    }
}

#[test]
fn m_alone_is_enough_for_6_1() {
    let fixed = |letters| FastFault::Fix(leaf(&NPT, letters));
    let fault = |steps: Steps, letters| steps.fast_page_fault(leaf(&NPT, letters), 1, Write, true);
    for algorithm in [V5_10, V6_1] {
        let steps = steps(&NPT, algorithm);
        assert_eq!(fault(steps, "HM"), fixed("HMW"));
        assert_eq!(fault(steps, "H"), FastFault::Refuse);
        assert_eq!(fault(steps, ""), FastFault::Refuse);
        assert_eq!(fault(steps, "HMW"), FastFault::Spurious);
    }
    // What change_pte left behind before 5.18.
    assert_eq!(fault(steps(&NPT, V5_10), "M"), FastFault::Refuse);
    assert_eq!(fault(steps(&NPT, V6_1), "M"), fixed("MW"));
    // Without its test of H 5.10 does the same; 6.1 has none to take away.
    let no_host: fn(Guard) -> bool = |guard| guard != Guard::FastFaultHostWritable;
    assert_eq!(fault(without(&NPT, V5_10, no_host), "M"), fixed("MW"));
    assert_eq!(fault(without(&NPT, V6_1, no_host), "HM"), fixed("HMW"));
}

#[test]
fn a_large_page_is_made_writable_where_nobody_logs() {
    let large = leaf(&NPT, "HM").with(NPT.last_value);
    for (algorithm, logged, fixed) in
        [(V5_10, true, false), (V5_10, false, false), (V6_1, true, false), (V6_1, false, true)]
    {
        let attempt = steps(&NPT, algorithm).fast_page_fault(large, 2, Write, logged);
        assert_eq!(attempt != FastFault::Refuse, fixed, "{algorithm:?} logged={logged}");
    }
    // An entry that points to a table is none of its business, whatever its bits allow.
    for (letters, access) in [("", Write), ("HM", Write), ("HMW", Write), ("", Read)] {
        for algorithm in [V5_10, V6_1] {
            let attempt =
                steps(&NPT, algorithm).fast_page_fault(leaf(&NPT, letters), 2, access, false);
            assert_eq!(attempt, FastFault::Refuse, "{algorithm:?} {letters} {access:?}");
        }
    }
}

#[test]
fn only_entries_that_map_something_are_looked_at() {
    for algorithm in [V5_10, V6_1] {
        for level in [1, 2] {
            let attempt = steps(&NPT, algorithm).fast_page_fault(Spte::ZERO, level, Write, true);
            assert_eq!(attempt, FastFault::Refuse);
        }
    }
}

#[test]
fn access_tracking_is_undone_by_both() {
    let spte = leaf(&EPT_NO_AD, "HM").with(EPT_NO_AD.ad_disabled);
    for algorithm in [V5_10, V6_1] {
        let steps = steps(&EPT_NO_AD, algorithm);
        let tracked = steps.mark_for_access_track(spte);
        assert_ne!(tracked, spte);
        assert_eq!(steps.fast_page_fault(tracked, 1, Read, true), FastFault::Fix(spte));
        let writable = spte.with(EPT_NO_AD.writable_mask);
        assert_eq!(steps.fast_page_fault(tracked, 1, Write, true), FastFault::Fix(writable));
    }
}

#[test]
fn what_a_fault_gets_back_has_to_be_enough_for_it() {
    for letters in ["H", "M", ""] {
        let spte = leaf(&EPT_NO_AD, letters).with(EPT_NO_AD.ad_disabled);
        let steps = steps(&EPT_NO_AD, V5_10);
        let tracked = steps.mark_for_access_track(spte);
        assert_eq!(steps.fast_page_fault(tracked, 1, Write, true), FastFault::Refuse);
    }
    let spte = leaf(&EPT_NO_AD, "H").with(EPT_NO_AD.ad_disabled);
    let steps = steps(&EPT_NO_AD, V6_1);
    let tracked = steps.mark_for_access_track(spte);
    assert_eq!(steps.fast_page_fault(tracked, 1, Write, true), FastFault::Refuse);
}

/// A 4K page that an access has asked for, and that everybody may write.
fn asked_for(old: Spte) -> NewLeaf {
    NewLeaf {
        pfn: Pfn(5),
        level: 1,
        host_writable: true,
        guest_writable: true,
        write_protected_pt: false,
        speculative: false,
        can_unsync: true,
        old,
    }
}

#[test]
fn an_entry_that_is_synchronised_keeps_w_in_5_10_and_is_not_dirty_for_that() {
    let sync = |algorithm, old, can_unsync| {
        let leaf = NewLeaf { speculative: true, can_unsync, ..asked_for(old) };
        let format = &NPT;
        let new = steps(format, algorithm).make_spte(leaf);
        (format.is_writable(new), format.is_dirty(new))
    };
    let (readable, writable) = (leaf(&NPT, "HM"), leaf(&NPT, "HMW"));
    assert_eq!(sync(V5_10, writable, false), (true, false));
    assert_eq!(sync(V5_10, readable, false), (true, true));
    assert_eq!(sync(V5_10, writable, true), (true, true));
    assert_eq!(sync(V6_1, writable, false), (true, false));
    assert_eq!(sync(V6_1, readable, false), (true, true));
}

#[test]
fn mapping_a_writable_page_again_clears_d_in_6_1() {
    let again = |algorithm, old| steps(&NPT, algorithm).make_spte(asked_for(old));
    let writable = leaf(&NPT, "HMW");
    for old in [Spte::ZERO, leaf(&NPT, "HM"), writable] {
        assert_eq!(again(V5_10, old), writable);
    }
    assert_eq!(again(V6_1, Spte::ZERO), writable);
    assert_eq!(again(V6_1, leaf(&NPT, "HM")), writable);
    assert_eq!(again(V6_1, writable), writable.without(NPT.dirty_mask));
}

#[test]
fn what_is_writable_already_is_not_volatile_for_that_in_6_1() {
    let volatile =
        |algorithm, letters| steps(&NPT, algorithm).has_volatile_bits(leaf(&NPT, letters));
    for (letters, old, new) in
        [("HMW", true, false), ("HM", true, true), ("H", false, false), ("M", false, true)]
    {
        assert_eq!((volatile(V5_10, letters), volatile(V6_1, letters)), (old, new), "{letters}");
    }
}

#[test]
fn write_protection_is_the_same() {
    for algorithm in [V5_10, V6_1] {
        let protect = |letters, pt| steps(&NPT, algorithm).write_protect(leaf(&NPT, letters), pt);
        assert_eq!(protect("HMW", false), Some(leaf(&NPT, "HM")));
        assert_eq!(protect("HMW", true), Some(leaf(&NPT, "H")));
        assert_eq!(protect("HM", false), None);
        assert_eq!(protect("HM", true), Some(leaf(&NPT, "H")));
        assert_eq!(protect("H", true), None);
    }
}
