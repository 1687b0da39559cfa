//! Instructions of arm64 that matter, by their encoding.

use kvmmu_steps::event::{Barrier, Tlbi};

use crate::kind::Kind;

/// `HINT #0x5b`: no operation on any CPU; kvmmu-live speaks to the plugin by it.
const HINT: u32 = 0xd503_2b7f;

/// What an instruction is.
pub(crate) fn kind(word: u32) -> Kind {
    match word {
        HINT => Kind::Message,
        // SYS with CRn 8, or 9: the nXS forms.
        _ if word & 0xfff8_e000 == 0xd508_8000 => Kind::Tlbi(word),
        _ if word & 0xffff_f0ff == 0xd503_309f => Kind::Barrier(barrier(word)),
        0xd69f_03e0 => Kind::Eret,
        // MSR VTTBR_EL2, Xt
        _ if word & 0xffff_ffe0 == 0xd51c_2100 => Kind::Root(register(word)),
        // DC ZVA, Xt
        _ if word & 0xffff_ffe0 == 0xd50b_7420 => Kind::Zero(register(word)),
        0xd65f_03c0 => Kind::Ret,
        _ => Kind::Other,
    }
}

/// The register operand, Xt.
pub(crate) fn register(word: u32) -> u8 {
    (word & 31) as u8
}

/// True if a TLBI is one of EL2 (op1 = 4): those of stage 2 are among them.
pub(crate) fn is_el2(word: u32) -> bool {
    word >> 16 & 7 == 4
}

/// Which TLBI it is.
pub(crate) fn tlbi(word: u32) -> Tlbi {
    let (op1, crm, op2) = ((word >> 16 & 7) as u8, (word >> 8 & 15) as u8, (word >> 5 & 7) as u8);
    match (op1, crm, op2) {
        (4, 0, 1) => Tlbi::Ipas2e1is,
        (4, 0, 2) => Tlbi::Ripas2e1is,
        (4, 0, 5) => Tlbi::Ipas2le1is,
        (4, 4, 1) => Tlbi::Ipas2e1,
        (4, 3, 4) => Tlbi::Alle1is,
        (4, 3, 6) => Tlbi::Vmalls12e1is,
        (4, 7, 4) => Tlbi::Alle1,
        (4, 7, 6) => Tlbi::Vmalls12e1,
        (0, 3, 0) => Tlbi::Vmalle1is,
        (0, 7, 0) => Tlbi::Vmalle1,
        _ => Tlbi::Other(op1, crm, op2),
    }
}

fn barrier(word: u32) -> Barrier {
    match word >> 8 & 15 {
        15 | 11 => Barrier::DsbIsh,
        14 | 10 => Barrier::DsbIshst,
        7 => Barrier::DsbNsh,
        6 => Barrier::DsbNshst,
        _ => Barrier::DsbOther,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings() {
        assert_eq!(kind(0xd503_201f), Kind::Other, "NOP");
        assert_eq!(kind(0xd503_3b9f), Kind::Barrier(Barrier::DsbIsh));
        assert_eq!(kind(0xd503_3a9f), Kind::Barrier(Barrier::DsbIshst));
        assert_eq!(kind(0xd503_3bbf), Kind::Other, "DMB ISH");
        assert_eq!(kind(0xd51c_2103), Kind::Root(3));
        assert_eq!(kind(0xd50b_7420), Kind::Zero(0));
        assert_eq!(tlbi(0xd50c_83df), Tlbi::Vmalls12e1is);
        assert_eq!(tlbi(0xd50c_8020), Tlbi::Ipas2e1is);
        assert_eq!(tlbi(0xd508_831f), Tlbi::Vmalle1is);
        assert!(is_el2(0xd50c_83df) && !is_el2(0xd508_831f));
    }
}
