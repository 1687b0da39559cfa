//! Goal: an SPTE says what KVM's SPTEs say, in every layout. Method: the layout and the predicates
//! of 5.10, stated a second time by bit numbers (`Layout`) and held against the model on random
//! values.

use kvmmu_model::spte::{SPTE_HOST_WRITEABLE, SPTE_MMU_WRITEABLE};
use kvmmu_model::{Access, Gfn, Gpte, Pfn, SpId, Spte, SpteFormat, Until};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// A layout by its bit numbers; `None`: it has no such bit.
#[derive(Debug)]
struct Layout {
    name: &'static str,
    /// Permission bits: present or R, W, and what allows or forbids fetches.
    x: Option<u32>,
    nx: Option<u32>,
    user: Option<u32>,
    a: Option<u32>,
    d: Option<u32>,
    /// Not present, read and fetch faults can be access tracking: every EPT host.
    tracks: bool,
}

const P: u32 = 0;
const W: u32 = 1;
const H: u32 = 10;
const M: u32 = 11;

const LAYOUTS: [Layout; 3] = [
    Layout { name: "ept", x: Some(2), nx: None, user: None, a: Some(8), d: Some(9), tracks: true },
    Layout { name: "ept-no-ad", x: Some(2), nx: None, user: None, a: None, d: None, tracks: true },
    Layout {
        name: "npt",
        x: None,
        nx: Some(63),
        user: Some(2),
        a: Some(5),
        d: Some(6),
        tracks: false,
    },
];

fn bit(v: u64, n: u32) -> bool {
    v >> n & 1 == 1
}

fn has(v: u64, n: Option<u32>) -> bool {
    n.is_some_and(|n| bit(v, n))
}

/// The value without these bits.
fn clear(v: u64, bits: &[u32]) -> u64 {
    bits.iter().fold(v, |v, n| v & !(1 << n))
}

/// The layout of 5.10, once more.
impl Layout {
    fn special(v: u64) -> u64 {
        v >> 52 & 0b11
    }
    fn shadow_present(v: u64) -> bool {
        v != 0 && Layout::special(v) != 3
    }
    fn ad_enabled(v: u64) -> bool {
        Layout::special(v) != 1
    }
    fn access_track(&self, v: u64) -> bool {
        let permitted = self.tracks && (bit(v, 0) || bit(v, 1) || bit(v, 2));
        !Layout::ad_enabled(v) && !permitted
    }
    fn accessed(&self, v: u64) -> bool {
        if Layout::ad_enabled(v) { has(v, self.a) } else { !self.access_track(v) }
    }
    fn dirty(&self, v: u64) -> bool {
        if Layout::ad_enabled(v) { has(v, self.d) } else { bit(v, W) }
    }
    fn allows(&self, v: u64, access: Access) -> bool {
        let executable = self.x.is_none_or(|x| bit(v, x)) && !has(v, self.nx);
        let permitted = match access {
            Access::Read => true,
            Access::Write => bit(v, W),
            Access::Fetch => executable,
        };
        Layout::special(v) != 3 && bit(v, P) && permitted
    }
    /// The bits that a leaf of this layout may have, those of its page and special field aside.
    fn leaf_bits(&self) -> Vec<u32> {
        let optional = [self.x, self.nx, self.user, self.a, self.d];
        [P, W, H, M].into_iter().chain(optional.into_iter().flatten()).collect()
    }
}

fn layout() -> impl Strategy<Value = (&'static Layout, SpteFormat)> {
    (0..LAYOUTS.len()).prop_map(|i| (&LAYOUTS[i], SpteFormat::ALL[i]))
}

/// Any value; bits that matter are set often enough to meet.
fn any_value() -> impl Strategy<Value = u64> {
    let special = prop_oneof![3 => any::<u64>(), 1 => Just(0), 2 => 0..4096u64];
    (special, 0..4u64).prop_map(|(v, field)| v & !(3 << 52) | field << 52)
}

fn pfn() -> impl Strategy<Value = Pfn> {
    (0..1u64 << 40).prop_map(Pfn)
}

/// Layouts and special fields that go together: with A/D bits 0 or 2, and 1 where they are off, for
/// the whole host or for some shadow pages (`role.ad_disabled`).
const AD_ON: &[(usize, u64)] = &[(0, 0), (0, 2), (2, 0), (2, 2)];
const AD_OFF: &[(usize, u64)] = &[(0, 1), (1, 1)];

type Leaf = (&'static Layout, SpteFormat, u64);

/// A leaf as KVM makes them, not access-tracked.
fn leaf(kinds: &'static [(usize, u64)]) -> impl Strategy<Value = Leaf> {
    (0..kinds.len(), any::<u64>(), pfn()).prop_map(|(kind, bits, pfn)| {
        let (i, field) = kinds[kind];
        let l = &LAYOUTS[i];
        let bits = l.leaf_bits().into_iter().fold(0, |v, n| v | bits & 1 << n);
        (l, SpteFormat::ALL[i], bits | 1 << P | pfn.0 << 12 | field << 52)
    })
}

fn any_leaf() -> impl Strategy<Value = Leaf> {
    prop_oneof![leaf(AD_ON), leaf(AD_OFF)]
}

/// The same values in every run, unless the environment says otherwise (`PROPTEST_RNG_SEED`).
fn config() -> ProptestConfig {
    let environment = ProptestConfig::default();
    let rng_seed = match environment.rng_seed {
        RngSeed::Random => RngSeed::Fixed(1),
        fixed => fixed,
    };
    ProptestConfig { rng_seed, failure_persistence: None, cases: 2_000, ..environment }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn predicates_of_any_value_mean_what_kvm_means((l, f) in layout(), v in any_value()) {
        let s = Spte(v);
        prop_assert_eq!(s.is_mmio(), Layout::special(v) == 3);
        prop_assert_eq!(s.is_shadow_present(), Layout::shadow_present(v));
        prop_assert_eq!(s.ad_enabled(), Layout::ad_enabled(v));
        prop_assert_eq!(s.ad_need_write_protect(), Layout::special(v) != 0);
        prop_assert_eq!(s.is_writable(), bit(v, W));
        prop_assert_eq!(s.is_host_writable(), bit(v, H));
        prop_assert_eq!(s.is_mmu_writable(), bit(v, M));
        prop_assert_eq!(s.can_locklessly_be_made_writable(), bit(v, H) && bit(v, M));
        prop_assert_eq!(s.is_last(1), true);
        prop_assert_eq!(s.is_last(2), bit(v, 7));
        prop_assert_eq!(f.is_access_track(s), l.access_track(v));
        prop_assert_eq!(f.is_accessed(s), l.accessed(v));
        prop_assert_eq!(f.is_dirty(s), l.dirty(v));
    }

    #[test]
    fn hardware_allows_what_the_bits_say((l, f) in layout(), v in any_value()) {
        for access in [Access::Read, Access::Write, Access::Fetch] {
            prop_assert_eq!(f.allows(Spte(v), access), l.allows(v, access), "{:?}", access);
        }
    }

    #[test]
    fn a_leaf_is_legal_as_111_110_100_or_000((_, _, v) in any_leaf()) {
        let hmw = (bit(v, H), bit(v, M), bit(v, W));
        let legal = [
            (true, true, true),
            (true, true, false),
            (true, false, false),
            (false, false, false),
        ];
        prop_assert_eq!(Spte(v).is_legal_leaf(), legal.contains(&hmw));
    }

    #[test]
    fn the_page_round_trips_and_leaves_the_other_bits_alone(v in any_value(), pfn in pfn()) {
        let s = Spte(v).with_pfn(pfn);
        prop_assert_eq!(s.pfn(), pfn);
        prop_assert_eq!(s.0, v & 0xfff0_0000_0000_0fff | pfn.0 << 12);
        prop_assert_eq!(s.with_pfn(Spte(v).pfn()).0, v);
    }

    #[test]
    fn bits_are_set_and_cleared_alone(v in any_value(), bits in any::<u64>()) {
        prop_assert_eq!(Spte(v).with(bits).0, v | bits);
        prop_assert_eq!(Spte(v).without(bits).0, v & !bits);
        let hm = SPTE_HOST_WRITEABLE | SPTE_MMU_WRITEABLE;
        prop_assert!(Spte(v).with(hm).can_locklessly_be_made_writable());
        prop_assert!(!Spte(v).without(SPTE_MMU_WRITEABLE).can_locklessly_be_made_writable());
    }

    #[test]
    fn a_nonleaf_allows_everything_and_has_neither_h_nor_m((l, f) in layout(), child: u8) {
        let s = f.nonleaf(SpId(child));
        prop_assert_eq!(s.child(), SpId(child));
        prop_assert!(s.is_shadow_present() && !s.is_mmio() && !s.is_last(2));
        prop_assert!(!s.is_host_writable() && !s.is_mmu_writable());
        for access in [Access::Read, Access::Write, Access::Fetch] {
            prop_assert!(f.allows(s, access));
        }
        prop_assert_eq!(s.ad_enabled(), l.a.is_some());
        prop_assert!(f.is_accessed(s));
        // P, W, U or X, and A or the field that says there is none: ACC_ALL and nothing else.
        let own = [Some(P), Some(W), l.x, l.user, l.a].into_iter().flatten();
        let own = own.fold(0, |v, n| v | 1 << n);
        let field = if l.a.is_some() { 0 } else { 1 << 52 };
        prop_assert_eq!(s.0 & 0xfff0_0000_0000_0fff, own | field);
    }

    #[test]
    fn marking_clears_a_and_nothing_else_where_a_d_bits_are_on(
        (l, f, v) in leaf(AD_ON),
        save_w: bool,
    ) {
        let a: Vec<u32> = l.a.into_iter().collect();
        prop_assert_eq!(f.mark_for_access_track(Spte(v), save_w).0, clear(v, &a));
    }

    #[test]
    fn marking_saves_r_and_x_where_a_d_bits_are_off((l, f, v) in leaf(AD_OFF)) {
        let marked = f.mark_for_access_track(Spte(v), false).0;
        let saved = u64::from(bit(v, 0)) << 54 | u64::from(bit(v, 2)) << 56;
        prop_assert_eq!(marked, clear(v, &[0, 1, 2]) | saved);
        prop_assert!(f.is_access_track(Spte(marked)) && l.access_track(marked));
        for access in [Access::Read, Access::Write, Access::Fetch] {
            prop_assert!(!f.allows(Spte(marked), access));
        }
    }

    #[test]
    fn restoring_gives_back_r_and_x_and_never_w((_, f, v) in leaf(AD_OFF)) {
        let restored = f.restore_acc_track(f.mark_for_access_track(Spte(v), false)).0;
        prop_assert_eq!(restored, clear(v, &[W]));
    }

    #[test]
    fn restoring_gives_back_w_if_the_guard_is_gone_that_drops_it((_, f, v) in leaf(AD_OFF)) {
        let marked = f.mark_for_access_track(Spte(v), true);
        prop_assert_eq!(bit(marked.0, 55), bit(v, W));
        prop_assert_eq!(f.restore_acc_track(marked).0, v);
    }

    #[test]
    fn marking_and_restoring_twice_is_doing_it_once((_, f) in layout(), v in any_value()) {
        for save_w in [false, true] {
            let marked = f.mark_for_access_track(Spte(v), save_w);
            prop_assert_eq!(f.mark_for_access_track(marked, save_w), marked);
        }
        let restored = f.restore_acc_track(Spte(v));
        prop_assert_eq!(f.restore_acc_track(restored), restored);
    }

    #[test]
    fn a_marked_spte_is_present_and_not_accessed_and_keeps_page_h_and_m(
        (_, f) in layout(),
        v in any_value(),
        save_w: bool,
    ) {
        let s = Spte(v);
        let marked = f.mark_for_access_track(s, save_w);
        prop_assert!(!f.is_accessed(marked));
        for s2 in [marked, f.restore_acc_track(marked)] {
            prop_assert_eq!(s2.pfn(), s.pfn());
            prop_assert_eq!(s2.is_host_writable(), s.is_host_writable());
            prop_assert_eq!(s2.is_mmu_writable(), s.is_mmu_writable());
            prop_assert_eq!(Layout::special(s2.0), Layout::special(v));
            prop_assert_eq!(s2.is_mmio(), s.is_mmio());
        }
    }

    #[test]
    fn marking_and_restoring_keep_a_leaf_legal_and_give_nothing((_, f, v) in any_leaf()) {
        let s = Spte(v);
        let marked = f.mark_for_access_track(s, false);
        let restored = f.restore_acc_track(marked);
        prop_assert!(marked.is_shadow_present() && restored.is_shadow_present());
        for s2 in [marked, restored] {
            prop_assert!(!s.is_legal_leaf() || s2.is_legal_leaf());
            for access in [Access::Read, Access::Write, Access::Fetch] {
                prop_assert!(!f.allows(s2, access) || f.allows(s, access));
            }
        }
    }

    #[test]
    fn a_dirty_bit_survives_marking_where_a_d_bits_are_on((_, f, v) in leaf(AD_ON)) {
        let s = Spte(v);
        prop_assert_eq!(f.is_dirty(f.mark_for_access_track(s, false)), f.is_dirty(s));
    }

    #[test]
    fn a_gpte_round_trips(gfn in 0..64u64, writable: bool) {
        let gpte = Gpte::new(Gfn(gfn), writable);
        prop_assert!(gpte.is_present());
        prop_assert_eq!((gpte.gfn(), gpte.is_writable()), (Gfn(gfn), writable));
        prop_assert!(!Gpte(gpte.0 & 0x7f).is_present());
    }

    #[test]
    fn a_wait_ends_on_the_value_another_value_or_a_clear_bit(v: u64, other: u64, mask: u64) {
        for (now, waited) in [(v, v), (v, other), (other, v), (v, v ^ 1), (v & mask, mask)] {
            prop_assert_eq!(Until::Is(waited).is_met_by(now), now == waited);
            prop_assert_eq!(Until::Not(waited).is_met_by(now), now != waited);
            let all = (0..64).filter(|n| bit(waited, *n)).all(|n| bit(now, n));
            prop_assert_eq!(Until::NotAll(waited).is_met_by(now), !all);
        }
        // A wait for no bits at all is never over: it has none that could be clear.
        prop_assert!(!Until::NotAll(0).is_met_by(v));
    }
}

#[test]
fn the_layouts_are_those_that_kvm_md_gives() {
    assert_eq!(LAYOUTS.len(), SpteFormat::ALL.len());
    for (l, f) in LAYOUTS.iter().zip(&SpteFormat::ALL) {
        let mask = |n: Option<u32>| n.map_or(0, |n| 1u64 << n);
        assert_eq!(l.name, f.name);
        assert_eq!(f.present_mask, 1 << P);
        assert_eq!((f.x_mask, f.nx_mask, f.user_mask), (mask(l.x), mask(l.nx), mask(l.user)));
        assert_eq!((f.accessed_mask, f.dirty_mask), (mask(l.a), mask(l.d)));
        assert_eq!(f.acc_track_mask, if l.tracks { 0b111 } else { 0 });
    }
    let [ept, _, npt] = SpteFormat::ALL;
    assert_eq!((ept.accessed_mask, ept.dirty_mask), (1 << 8, 1 << 9));
    assert_eq!((npt.accessed_mask, npt.dirty_mask), (1 << 5, 1 << 6));
}
