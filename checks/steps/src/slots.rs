//! The memslots of a VM, as user space says that it sets them.

use crate::event::User;

/// A memslot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Slot {
    number: u64,
    base: u64,
    pages: u64,
    /// The address of its first page in user space.
    host: u64,
    logged: bool,
    /// An ioctl that changes it is under way.
    changing: bool,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Slots(Vec<Slot>);

impl Slots {
    /// User space says something. Another VM begins with slots of its own.
    pub fn see(&mut self, user: &User) {
        let User::Mark { op, exit, fields } = user else { return };
        if op != "slot" {
            return;
        }
        let field = |name: &str| fields.iter().find(|(n, _)| n == name).map_or(0, |(_, v)| *v);
        let number = field("slot");
        let set = Slot {
            number,
            base: field("base"),
            pages: field("pages"),
            host: field("host"),
            logged: field("log") == 1,
            changing: !exit,
        };
        let known = self.0.iter_mut().find(|slot| slot.number == number);
        match known {
            // What it was before holds until the ioctl has returned.
            Some(slot) if !exit => slot.changing = true,
            Some(slot) => *slot = set,
            None => self.0.push(set),
        }
        self.0.retain(|slot| slot.pages > 0 || slot.changing);
    }

    /// Another VM is made.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// True if stores to a frame are logged, for certain.
    pub fn logs(&self, gfn: u64) -> bool {
        let has = |slot: &&Slot| (slot.base..slot.base + slot.pages).contains(&gfn);
        self.0.iter().find(has).is_some_and(|slot| slot.logged && !slot.changing)
    }

    /// The frames of a range of addresses of user space.
    pub fn frames(&self, host: core::ops::Range<u64>) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().flat_map(move |slot| {
            let page = |address: u64| (address.max(slot.host) - slot.host).div_ceil(4096);
            let (first, end) = (page(host.start & !4095), page(host.end));
            (first.min(slot.pages)..end.min(slot.pages)).map(|page| slot.base + page)
        })
    }

    /// The first frame of the slot that is logged, if there is one alone.
    pub fn logged_base(&self) -> Option<u64> {
        let mut logged = self.0.iter().filter(|slot| slot.logged && !slot.changing);
        let base = logged.next()?.base;
        logged.next().is_none().then_some(base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_addresses() {
        let mut slots = Slots::default();
        let fields = [("slot", 0), ("base", 0x200), ("pages", 8), ("host", 0x7000_0000)]
            .map(|(n, v)| (n.to_owned(), v));
        slots.see(&User::Mark { op: "slot".to_owned(), exit: true, fields: fields.to_vec() });
        let frames = |range| slots.frames(range).collect::<Vec<_>>();
        assert_eq!(frames(0x7000_1000..0x7000_3000), [0x201, 0x202]);
        assert_eq!(frames(0x6fff_f000..0x7000_1000), [0x200]);
        assert_eq!(frames(0x7000_7000..0x7fff_ffff), [0x207]);
        assert!(frames(0..0x1000).is_empty());
    }
}
