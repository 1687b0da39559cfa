//! Parts of a run, so that several machines can share it.
//!
//! Guarantee: which variants a shard has depends on the selected variants and on the number of
//! shards alone. The shards of a run have each variant exactly once.

use std::fmt;
use std::str::FromStr;

use crate::lab::variant::{Variant, hash};

/// One part of a run: `2/3` is the second of three.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Shard {
    /// Which one, from 1 on.
    pub index: u16,
    /// Of how many.
    pub of: u16,
}

impl Shard {
    /// The `index`-th of so many; `None`: there is no such.
    pub fn new(index: u16, of: u16) -> Option<Shard> {
        (1..=of).contains(&index).then_some(Shard { index, of })
    }

    /// The variants of this shard of a run of `count`, by index, in their order: dealt in turn,
    /// because those that take long are often of one scenario, next to each other.
    pub fn deal(self, count: usize) -> Vec<usize> {
        (usize::from(self.index) - 1..count).step_by(usize::from(self.of)).collect()
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Shard, String> {
        let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
            true => text.parse::<u16>().ok(),
            false => None,
        };
        let numbers = text.split_once('/').and_then(|(i, n)| Some((number(i)?, number(n)?)));
        let (index, of) = numbers
            .ok_or_else(|| format!("not a part of a run; try 1/4, and at most {}", u16::MAX))?;
        Shard::new(index, of).ok_or_else(|| match of {
            0 => "a run has at least one part; try 1/4".to_owned(),
            _ => format!("the parts of {of} are 1/{of} to {of}/{of}"),
        })
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

/// A stamp of all variants of a run: shards belong together only if they were dealt from the same.
pub fn stamp(variants: &[Variant]) -> String {
    let each = variants.iter().map(|variant| format!("{variant:?}\n"));
    format!("{:016x}", hash(&each.collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::load;
    use crate::lab::select::{self, Selected};

    fn builtin() -> Vec<Variant> {
        let scenarios = load::builtin(1).unwrap();
        scenarios.into_iter().flat_map(|s| select::variants(&Selected::builtin(s), &[])).collect()
    }

    #[test]
    fn the_shards_of_a_run_have_each_variant_once() {
        for of in [1, 2, 3, 7, 64, 1000] {
            let shards = (1..=of).map(|index| Shard { index, of }.deal(158));
            let mut all: Vec<usize> = shards.flatten().collect();
            all.sort_unstable();
            assert!(all.into_iter().eq(0..158), "{of}");
        }
        let two = |index| Shard { index, of: 2 }.deal(5);
        assert_eq!((two(1), two(2)), (vec![0, 2, 4], vec![1, 3]));
    }

    #[test]
    fn a_stamp_is_of_all_that_is_selected() {
        let variants = builtin();
        assert_eq!(stamp(&variants), stamp(&builtin()));
        assert_ne!(stamp(&variants), stamp(&variants[1..]));
        let mut other = variants.clone();
        other[0] = other[0].clone().lock_checks_off(true);
        assert_ne!(stamp(&variants), stamp(&other));
    }

    #[test]
    fn what_is_no_part_is_refused() {
        assert_eq!("2/3".parse(), Ok(Shard { index: 2, of: 3 }));
        for (text, said) in [
            ("0/2", "the parts of 2 are 1/2 to 2/2"),
            ("3/2", "the parts of 2 are 1/2 to 2/2"),
            ("1/0", "at least one part"),
            ("x", "try 1/4"),
            ("1/", "try 1/4"),
            ("+1/2", "try 1/4"),
            ("1/65536", "at most 65535"),
        ] {
            assert!(text.parse::<Shard>().unwrap_err().contains(said), "{text}");
        }
    }
}
