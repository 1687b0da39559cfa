//! Goal: an SPTE says what KVM's SPTEs say, in every format. Method: the layouts and the
//! predicates, stated a second time by bit numbers (`Layout`) and held against the model on random
//! values.

use kvmmu_model::{Access, Gfn, Gpte, Pfn, SpId, Spte, SpteFormat, Until};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// A layout by its bit numbers; `None`: it has no such bit.
#[derive(Debug)]
struct Layout {
    name: &'static str,
    /// Hardware translates by an entry only if all of these are set.
    valid: &'static [u32],
    /// What a leaf has besides.
    leaf: &'static [u32],
    w: u32,
    h: u32,
    m: u32,
    /// What write protection clears.
    write_protect: &'static [u32],
    /// What allows or forbids fetches.
    x: Option<u32>,
    nx: Option<u32>,
    user: Option<u32>,
    a: Option<u32>,
    d: Option<u32>,
    /// KVM maps something here.
    mmu_present: Option<u32>,
    /// What tracking of accesses takes away; none: nothing is tracked.
    tracks: &'static [u32],
    /// What of it is saved, and where; the saved W last.
    saves: &'static [(u32, u32)],
    /// What a restore sets.
    restores: &'static [u32],
    /// The field for A/D bits and its value for "off".
    ad_field: (u64, u64),
    /// MMIO SPTEs: bits and their value.
    mmio: Option<(u64, u64)>,
    /// In an upper level: the bit that tells a page from a table, and its value for a page.
    last: (u32, bool),
    /// The bits above the pfn.
    pfn_end: u32,
}

const SPECIAL: u64 = 3 << 52;
const EPT: Layout = Layout {
    name: "ept",
    valid: &[0],
    leaf: &[],
    w: 1,
    h: 10,
    m: 11,
    write_protect: &[1],
    x: Some(2),
    nx: None,
    user: None,
    a: Some(8),
    d: Some(9),
    mmu_present: None,
    tracks: &[0, 1, 2],
    saves: &[(0, 54), (2, 56), (1, 55)],
    restores: &[],
    ad_field: (SPECIAL, 1 << 52),
    mmio: Some((SPECIAL, SPECIAL)),
    last: (7, true),
    pfn_end: 52,
};
const NPT: Layout = Layout {
    name: "npt",
    x: None,
    nx: Some(63),
    user: Some(2),
    a: Some(5),
    d: Some(6),
    tracks: &[],
    ..EPT
};
const STAGE2: Layout = Layout {
    name: "stage2",
    valid: &[0, 10],
    leaf: &[1, 2, 3, 4, 5, 6, 8, 9],
    w: 7,
    h: 55,
    m: 56,
    write_protect: &[7],
    x: None,
    nx: Some(54),
    user: None,
    a: None,
    d: None,
    mmu_present: None,
    tracks: &[7, 10],
    saves: &[(7, 58)],
    restores: &[10],
    ad_field: (1 << 57, 1 << 57),
    mmio: None,
    last: (1, false),
    pfn_end: 48,
};

const LAYOUTS: [Layout; 6] = [
    EPT,
    Layout { name: "ept-no-ad", a: None, d: None, ..EPT },
    NPT,
    Layout {
        name: "npt-v6.1",
        h: 9,
        m: 10,
        mmu_present: Some(11),
        mmio: Some((1 << 51 | 1, 1 << 51 | 1)),
        ..NPT
    },
    STAGE2,
    Layout {
        name: "stage2-hd",
        valid: &[0],
        w: 51,
        write_protect: &[7, 51],
        a: Some(10),
        d: Some(7),
        tracks: &[],
        restores: &[],
        ..STAGE2
    },
];

fn bit(v: u64, n: u32) -> bool {
    v >> n & 1 == 1
}

fn has(v: u64, n: Option<u32>) -> bool {
    n.is_some_and(|n| bit(v, n))
}

/// These bits.
fn mask(bits: &[u32]) -> u64 {
    bits.iter().fold(0, |v, n| v | 1 << n)
}

/// The value without these bits.
fn clear(v: u64, bits: &[u32]) -> u64 {
    v & !mask(bits)
}

/// What KVM asks of an SPTE, once more.
impl Layout {
    fn is_mmio(&self, v: u64) -> bool {
        self.mmio.is_some_and(|(bits, value)| v & bits == value)
    }
    fn shadow_present(&self, v: u64) -> bool {
        self.mmu_present.map_or(v != 0 && !self.is_mmio(v), |n| bit(v, n))
    }
    fn ad_enabled(&self, v: u64) -> bool {
        v & self.ad_field.0 != self.ad_field.1
    }
    fn access_track(&self, v: u64) -> bool {
        !self.ad_enabled(v) && !self.tracks.iter().any(|n| bit(v, *n))
    }
    fn accessed(&self, v: u64) -> bool {
        if self.ad_enabled(v) { has(v, self.a) } else { !self.access_track(v) }
    }
    fn dirty(&self, v: u64) -> bool {
        if self.ad_enabled(v) { has(v, self.d) } else { bit(v, self.w) }
    }
    fn allows(&self, v: u64, access: Access) -> bool {
        let executable = self.x.is_none_or(|x| bit(v, x)) && !has(v, self.nx);
        let permitted = match access {
            Access::Read => true,
            Access::Write => bit(v, self.w),
            Access::Fetch => executable,
        };
        !self.is_mmio(v) && self.valid.iter().all(|n| bit(v, *n)) && permitted
    }
    /// The bits that a leaf of this layout may have, those of its page and A/D field aside.
    fn leaf_bits(&self) -> Vec<u32> {
        let optional = [self.x, self.nx, self.user, self.a, self.d].into_iter().flatten();
        [self.w, self.h, self.m].into_iter().chain(optional).collect()
    }
    /// Where its page is.
    fn pfn_mask(&self) -> u64 {
        (1 << self.pfn_end) - (1 << 12)
    }
    /// Pages that do not look like MMIO.
    fn page(&self, pfn: Pfn) -> u64 {
        pfn.0 << 12 & self.pfn_mask() & !(1 << 51)
    }
}

fn layout() -> impl Strategy<Value = (&'static Layout, SpteFormat)> {
    (0..LAYOUTS.len()).prop_map(|i| (&LAYOUTS[i], SpteFormat::ALL[i]))
}

/// Any value; bits that matter are set often enough to meet.
fn any_value() -> impl Strategy<Value = u64> {
    let special = prop_oneof![3 => any::<u64>(), 1 => Just(0), 2 => 0..4096u64];
    (special, 0..4u64, any::<bool>())
        .prop_map(|(v, field, off)| v & !(3 << 52 | 1 << 57) | field << 52 | u64::from(off) << 57)
}

fn pfn() -> impl Strategy<Value = Pfn> {
    (0..1u64 << 40).prop_map(Pfn)
}

/// Layouts and A/D fields that go together: with A/D bits 0 or 2, and 1 where they are off, for
/// the whole host or for some shadow pages (`role.ad_disabled`).
const AD_ON: &[(usize, u64)] =
    &[(0, 0), (0, 2 << 52), (2, 0), (2, 2 << 52), (3, 0), (3, 2 << 52), (5, 0)];
const AD_OFF: &[(usize, u64)] = &[(0, 1 << 52), (1, 1 << 52), (4, 1 << 57)];

type Leaf = (&'static Layout, SpteFormat, u64);

/// A leaf as KVM makes them, not access-tracked.
fn leaf(kinds: &'static [(usize, u64)]) -> impl Strategy<Value = Leaf> {
    (0..kinds.len(), any::<u64>(), pfn()).prop_map(|(kind, bits, pfn)| {
        let (i, field) = kinds[kind];
        let l = &LAYOUTS[i];
        let bits = l.leaf_bits().into_iter().fold(0, |v, n| v | bits & 1 << n);
        let own = mask(l.valid) | mask(l.leaf) | l.mmu_present.map_or(0, |n| 1 << n);
        // DBM lies among the pfn bits of x86, and is no bit of a stage-2 page.
        (l, SpteFormat::ALL[i], bits | own | l.page(pfn) | field)
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
        prop_assert_eq!(f.is_mmio(s), l.is_mmio(v));
        prop_assert_eq!(f.is_shadow_present(s), l.shadow_present(v));
        prop_assert_eq!(f.ad_enabled(s), l.ad_enabled(v));
        prop_assert_eq!(f.ad_need_write_protect(s), v & l.ad_field.0 != 0);
        prop_assert_eq!(f.is_writable(s), bit(v, l.w));
        prop_assert_eq!(f.is_host_writable(s), bit(v, l.h));
        prop_assert_eq!(f.is_mmu_writable(s), bit(v, l.m));
        prop_assert_eq!(f.can_locklessly_be_made_writable(s), bit(v, l.h) && bit(v, l.m));
        prop_assert_eq!(f.is_last(s, 1), true);
        prop_assert_eq!(f.is_last(s, 2), v != 0 && bit(v, l.last.0) == l.last.1);
        prop_assert_eq!(f.is_access_track(s), l.access_track(v));
        prop_assert_eq!(f.is_accessed(s), l.accessed(v));
        prop_assert_eq!(f.is_dirty(s), l.dirty(v));
        prop_assert_eq!(f.fault_is_present(s), l.valid.iter().all(|n| bit(v, *n)));
    }

    #[test]
    fn an_mmio_spte_says_its_frame_and_its_generation(
        (l, f) in layout(), gfn in 0..64_u64, generation in 0..4_u64,
    ) {
        if l.mmio.is_none() {
            return Ok(());
        }
        let spte = f.mmio(Gfn(gfn), generation);
        prop_assert!(f.is_mmio(spte) && !f.is_shadow_present(spte));
        prop_assert_eq!((f.mmio_gfn(spte), f.mmio_generation(spte)), (Gfn(gfn), generation));
        for access in [Access::Read, Access::Write, Access::Fetch] {
            prop_assert!(!f.allows(spte, access), "{:?}", access);
        }
    }

    #[test]
    fn hardware_allows_what_the_bits_say((l, f) in layout(), v in any_value()) {
        for access in [Access::Read, Access::Write, Access::Fetch] {
            prop_assert_eq!(f.allows(Spte(v), access), l.allows(v, access), "{:?}", access);
        }
    }

    #[test]
    fn a_leaf_is_legal_as_111_110_100_or_000((l, f, v) in any_leaf()) {
        let hmw = (bit(v, l.h), bit(v, l.m), bit(v, l.w));
        let legal = [
            (true, true, true),
            (true, true, false),
            (true, false, false),
            (false, false, false),
        ];
        prop_assert_eq!(f.is_legal_leaf(Spte(v)), legal.contains(&hmw));
    }

    #[test]
    fn a_write_protected_leaf_lets_nobody_write((l, f, v) in any_leaf()) {
        let protected = f.write_protected(Spte(v));
        prop_assert_eq!(protected.0, clear(v, l.write_protect));
        prop_assert!(!f.allows(protected, Access::Write));
        // arm64 hardware writes by S2AP[1] alone.
        prop_assert!(l.pfn_end != 48 || !bit(protected.0, 7));
    }

    #[test]
    fn the_page_round_trips_and_leaves_the_other_bits_alone(
        (l, f) in layout(),
        v in any_value(),
        pfn in pfn(),
    ) {
        let pfn = Pfn(pfn.0 & l.pfn_mask() >> 12);
        let s = f.with_pfn(Spte(v), pfn);
        prop_assert_eq!(f.pfn(s), pfn);
        prop_assert_eq!(s.0, v & !l.pfn_mask() | pfn.0 << 12);
        prop_assert_eq!(f.with_pfn(s, f.pfn(Spte(v))).0, v);
    }

    #[test]
    fn bits_are_set_and_cleared_alone((_, f) in layout(), v in any_value(), bits in any::<u64>()) {
        prop_assert_eq!(Spte(v).with(bits).0, v | bits);
        prop_assert_eq!(Spte(v).without(bits).0, v & !bits);
        let hm = f.host_writable_mask | f.mmu_writable_mask;
        prop_assert!(f.can_locklessly_be_made_writable(Spte(v).with(hm)));
        let without_m = Spte(v).without(f.mmu_writable_mask);
        prop_assert!(!f.can_locklessly_be_made_writable(without_m));
    }

    #[test]
    fn a_nonleaf_allows_everything_and_has_neither_h_nor_m((l, f) in layout(), child: u8) {
        let s = f.nonleaf(SpId(child));
        prop_assert_eq!(f.child(s), SpId(child));
        prop_assert!(f.is_shadow_present(s) && !f.is_mmio(s) && !f.is_last(s, 2));
        prop_assert!(!f.is_host_writable(s) && !f.is_mmu_writable(s));
        for access in [Access::Read, Access::Write, Access::Fetch] {
            prop_assert!(f.allows(s, access));
        }
        prop_assert_eq!(f.ad_enabled(s), l.a.is_some());
        prop_assert!(f.is_accessed(s));
        // P, W, U or X, and A or the field that says there is none: ACC_ALL and nothing else.
        let own = [Some(l.w), l.x, l.user, l.a, l.mmu_present].into_iter().flatten();
        let own = own.fold(mask(l.valid) | mask(l.leaf), |v, n| v | 1 << n);
        let field = if l.a.is_some() { 0 } else { l.ad_field.1 };
        prop_assert_eq!(s.0 & !(l.pfn_mask() & !(1 << 51)), own | field);
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
    fn marking_saves_all_but_w_where_a_d_bits_are_off((l, f, v) in leaf(AD_OFF)) {
        let marked = f.mark_for_access_track(Spte(v), false).0;
        let kept = l.saves.iter().filter(|(from, _)| *from != l.w);
        let saved = kept.fold(0, |s, (from, to)| s | u64::from(bit(v, *from)) << to);
        prop_assert_eq!(marked, clear(v, l.tracks) | saved);
        prop_assert!(f.is_access_track(Spte(marked)) && l.access_track(marked));
        for access in [Access::Read, Access::Write, Access::Fetch] {
            prop_assert!(!f.allows(Spte(marked), access));
        }
    }

    #[test]
    fn restoring_gives_back_everything_but_w((l, f, v) in leaf(AD_OFF)) {
        let restored = f.restore_acc_track(f.mark_for_access_track(Spte(v), false)).0;
        prop_assert_eq!(restored, clear(v, &[l.w]));
    }

    #[test]
    fn restoring_gives_back_w_if_the_guard_is_gone_that_drops_it((l, f, v) in leaf(AD_OFF)) {
        let marked = f.mark_for_access_track(Spte(v), true);
        let (_, saved_w) = *l.saves.last().unwrap();
        prop_assert_eq!(bit(marked.0, saved_w), bit(v, l.w));
        prop_assert_eq!(f.restore_acc_track(marked).0, v);
    }

    #[test]
    fn marking_and_restoring_twice_is_doing_it_once((_, f, v) in any_leaf()) {
        for save_w in [false, true] {
            let marked = f.mark_for_access_track(Spte(v), save_w);
            prop_assert_eq!(f.mark_for_access_track(marked, save_w), marked);
        }
        let restored = f.restore_acc_track(Spte(v));
        prop_assert_eq!(f.restore_acc_track(restored), restored);
    }

    #[test]
    fn a_marked_spte_is_present_and_not_accessed_and_keeps_page_h_and_m(
        (l, f, v) in any_leaf(),
        save_w: bool,
    ) {
        let s = Spte(v);
        let marked = f.mark_for_access_track(s, save_w);
        prop_assert!(!f.is_accessed(marked));
        for s2 in [marked, f.restore_acc_track(marked)] {
            prop_assert_eq!(f.pfn(s2), f.pfn(s));
            prop_assert_eq!(f.is_host_writable(s2), f.is_host_writable(s));
            prop_assert_eq!(f.is_mmu_writable(s2), f.is_mmu_writable(s));
            prop_assert_eq!(s2.0 & l.ad_field.0, v & l.ad_field.0);
            prop_assert_eq!(f.is_mmio(s2), f.is_mmio(s));
        }
    }

    #[test]
    fn marking_and_restoring_keep_a_leaf_legal_and_give_nothing((_, f, v) in any_leaf()) {
        let s = Spte(v);
        let marked = f.mark_for_access_track(s, false);
        let restored = f.restore_acc_track(marked);
        prop_assert!(f.is_shadow_present(marked) && f.is_shadow_present(restored));
        for s2 in [marked, restored] {
            prop_assert!(!f.is_legal_leaf(s) || f.is_legal_leaf(s2));
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
    fn a_gpte_round_trips(gfn in 0..8u64, writable: bool, bits in 0..8u8) {
        let flags = [Gpte::PS, Gpte::A, Gpte::D];
        let is = |flag: usize| bits >> flag & 1 == 1;
        let made = Gpte::new(Gfn(gfn), writable);
        prop_assert!(made.is_accessed() && made.is_dirty() && !made.has(Gpte::PS));
        let gpte = (0..3).fold(made, |gpte, flag| match is(flag) {
            true => gpte.with(flags[flag]),
            false => gpte.without(flags[flag]),
        });
        prop_assert!(gpte.is_present());
        prop_assert_eq!((gpte.gfn(), gpte.is_writable()), (Gfn(gfn), writable));
        let said = (gpte.is_last(2), gpte.is_accessed(), gpte.is_dirty());
        prop_assert_eq!(said, (is(0), is(1), is(2)));
        prop_assert!(gpte.is_last(1) && !gpte.without(Gpte::P).is_present());
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
fn the_formats_are_those_of_the_layouts() {
    assert_eq!(LAYOUTS.len(), SpteFormat::ALL.len());
    for (l, f) in LAYOUTS.iter().zip(&SpteFormat::ALL) {
        let one = |n: Option<u32>| n.map_or(0, |n| 1u64 << n);
        assert_eq!(l.name, f.name);
        assert_eq!(f.translates_mask, mask(l.valid));
        assert_eq!(f.present_mask, mask(l.valid) | mask(l.leaf), "{}", l.name);
        assert_eq!((f.x_mask, f.nx_mask, f.user_mask), (one(l.x), one(l.nx), one(l.user)));
        assert_eq!((f.accessed_mask, f.dirty_mask), (one(l.a), one(l.d)));
        assert_eq!(f.acc_track_mask, mask(l.tracks));
        assert_eq!(f.acc_track_restore_mask, mask(l.restores));
        assert_eq!(f.pfn_mask, l.pfn_mask());
        assert_eq!(f.caches_permission_faults, l.pfn_end == 48);
    }
}
