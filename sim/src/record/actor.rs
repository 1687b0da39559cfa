//! Who takes a step.
//!
//! Today each actor is a thread of the program. What acts without a program, such as a store buffer
//! that drains, will be a kind of its own. No match over the kinds has a catch-all arm, and what
//! knows one kind only is an irrefutable pattern: a second kind makes the compiler name each place
//! that has to know it.

use core::fmt;
use core::num::ParseIntError;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

/// Who takes a step.
///
/// In text a thread is its index alone, `0`. Each other kind is to have a letter before the index,
/// say `f0`: a version that does not have the kind refuses the move and names it, and schedules of
/// threads alone keep their text.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Actor {
    /// A thread of the program, by its index.
    Thread(u8),
}

impl Actor {
    /// A small number, different for each actor of a program: its bit in a set of actors, and its
    /// place in a table of them.
    #[inline(always)]
    pub const fn index(self) -> usize {
        match self {
            Actor::Thread(thread) => thread as usize,
        }
    }

    /// The actor with this [`Actor::index`].
    #[inline(always)]
    pub const fn at(index: usize) -> Actor {
        Actor::Thread(index as u8)
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Actor::Thread(thread) => write!(f, "{thread}"),
        }
    }
}

impl FromStr for Actor {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Actor, ParseIntError> {
        text.parse().map(Actor::Thread)
    }
}
