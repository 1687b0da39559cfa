//! Guesses which thread of a state is enough to explore, from the places in the source where the
//! threads are and what came of exploring one there before.
//!
//! A wrong guess costs time and never a state: what was not enough is found out, and more is
//! explored. Places are numbered in the order in which the search comes to them: neither addresses
//! nor line numbers reach a guess, and so the numbers of states are those of the program.

use core::panic::Location;
use std::io;

use hashbrown::HashTable;
use serde::{Deserialize, Serialize};

use super::futures::threads;
use super::keep::{Reading, Unusable, Writing};
use crate::machine::ACTORS_MAX;
use crate::machine::pending::{Kind, Pending};
use crate::run::engine::Engine;

/// Entries of the table: direct-mapped, entries of different places may be one.
const SCORES: usize = 1 << 16;
/// A thread that moved last moves again, if all else is equal: fewer context switches.
const SAME: f32 = 0.02;
/// What each further outcome of a step costs.
const OUTCOME: f32 = 0.01;
/// The probability from which on no snapshot is taken.
const SURE: f32 = 0.8;

/// How often it was enough to explore one thread, and how often not.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default)]
struct Score {
    good: u16,
    bad: u16,
}

/// Where a thread is, and the object of its step.
#[derive(Serialize, Deserialize, PartialEq, Eq, Debug)]
struct Site {
    file: Box<str>,
    line: u32,
    column: u32,
    kind: Kind,
    loc: u16,
}

impl Site {
    fn mix(&self) -> u64 {
        Site::mixed(self.line, self.column, self.kind, self.loc)
    }

    fn mixed(line: u32, column: u32, kind: Kind, loc: u16) -> u64 {
        let place = u64::from(line) << 16 | u64::from(column);
        mix(place ^ u64::from(loc) << 40 ^ (kind as u64) << 56)
    }

    fn is(&self, place: &Location<'_>, kind: Kind, loc: u16) -> bool {
        (self.line, self.column, self.kind, self.loc) == (place.line(), place.column(), kind, loc)
            && *self.file == *place.file()
    }
}

/// The sites that were met, and their numbers.
#[derive(Debug)]
struct Sites {
    known: Vec<Site>,
    numbers: HashTable<u32>,
    /// Direct-mapped by address: saves a comparison of places.
    recent: Vec<Recent>,
}

/// A site that was met not long ago, by the address of its place.
#[derive(Clone, Copy, Debug)]
struct Recent {
    place: Option<&'static Location<'static>>,
    kind: Kind,
    loc: u16,
    number: u32,
}

/// Entries of [`Sites::recent`].
const RECENT: usize = 1 << 10;

impl Sites {
    fn new() -> Sites {
        let none = Recent { place: None, kind: Kind::Done, loc: 0, number: 0 };
        Sites { known: Vec::new(), numbers: HashTable::new(), recent: vec![none; RECENT] }
    }

    fn number(&mut self, place: &'static Location<'static>, kind: Kind, loc: u16) -> u32 {
        let address = core::ptr::from_ref(place).addr() >> 3;
        let at = (address ^ usize::from(loc) << 3 ^ kind as usize) % RECENT;
        let recent = self.recent[at];
        if recent.place.is_some_and(|known| core::ptr::eq(known, place))
            && (recent.kind, recent.loc) == (kind, loc)
        {
            return recent.number;
        }
        let known = &self.known;
        let key = Site::mixed(place.line(), place.column(), kind, loc);
        let number = match self.numbers.find(key, |n| known[*n as usize].is(place, kind, loc)) {
            Some(number) => *number,
            None => {
                let (file, line, column) = (place.file().into(), place.line(), place.column());
                self.add(Site { file, line, column, kind, loc })
            }
        };
        self.recent[at] = Recent { place: Some(place), kind, loc, number };
        number
    }

    fn add(&mut self, site: Site) -> u32 {
        let (number, key) = (self.known.len() as u32, site.mix());
        self.known.push(site);
        let known = &self.known;
        self.numbers.insert_unique(key, number, |n| known[*n as usize].mix());
        number
    }
}

/// What was learned.
#[derive(Debug)]
pub(crate) struct Predictor {
    sites: Sites,
    scores: Vec<Score>,
}

/// A guess, and what it was made of.
#[derive(Serialize, Deserialize, Clone, Copy, Debug)]
pub(crate) struct Guess {
    /// The thread to explore first.
    pub(crate) thread: u8,
    /// True if that is likely to be enough.
    pub(crate) sure: bool,
    /// The place of the thread among those of all others.
    here: u64,
    /// Where each thread is.
    sites: [u32; ACTORS_MAX],
}

impl Predictor {
    /// Knows nothing.
    pub(crate) fn new() -> Predictor {
        Predictor { sites: Sites::new(), scores: vec![Score::default(); SCORES] }
    }

    /// Writes what it has learned.
    pub(crate) fn write(&self, to: &mut Writing<'_>) -> io::Result<()> {
        to.put(&self.sites.known)?;
        to.put(&self.scores)
    }

    /// Reads what [`Predictor::write`] wrote.
    pub(crate) fn read(&mut self, from: &mut Reading<'_>) -> Result<(), Unusable> {
        for site in from.get::<Vec<Site>>()? {
            self.sites.add(site);
        }
        self.scores = from.get()?;
        match self.scores.len() {
            SCORES => Ok(()),
            _ => Err(Unusable::new("what it guesses by is of another program")),
        }
    }

    /// Guesses for a state in which several threads are enabled. `outcomes` says how many moves a
    /// thread has.
    pub(crate) fn guess(
        &mut self,
        engine: &Engine,
        enabled: u32,
        live: u32,
        last: Option<usize>,
        outcomes: impl Fn(usize) -> usize,
    ) -> Guess {
        let mut sites = [0; ACTORS_MAX];
        let mut all = mix(u64::from(enabled) << 32 | u64::from(live));
        for t in threads(live) {
            let Pending { site: place, kind, loc, .. } = engine.pending(t);
            let site = u64::from(self.sites.number(place, kind, loc));
            sites[t] = mix(site ^ (t as u64) << 32) as u32;
            all = mix(all ^ site);
        }
        let mut best = (f32::MIN, 0);
        for t in threads(enabled) {
            let among: f32 = threads(live & !(1 << t))
                .map(|u| {
                    let Score { good, bad } = self.score(pair(sites[t], sites[u]));
                    (f32::from(good) + 1.0) / (f32::from(good) + f32::from(bad) + 1.5)
                })
                .product();
            let Score { good, bad } = self.score(here(all, t));
            let mut score =
                (f32::from(good) + among * 2.0) / (f32::from(good) + f32::from(bad) + 2.0);
            score -= OUTCOME * outcomes(t) as f32;
            if last == Some(t) {
                score += SAME;
            }
            if score > best.0 {
                best = (score, t);
            }
        }
        let (score, thread) = best;
        Guess { thread: thread as u8, sure: score > SURE, here: here(all, thread), sites }
    }

    /// Learns what came of a guess: whether the thread was enough, or else the threads against it.
    pub(crate) fn learn(&mut self, guess: &Guess, live: u32, enough: bool, against: u32) {
        self.count(guess.here, enough);
        let t = usize::from(guess.thread);
        for u in threads(live & !(1 << t)) {
            if enough || against >> u & 1 == 1 {
                self.count(pair(guess.sites[t], guess.sites[u]), enough);
            }
        }
    }

    fn score(&self, key: u64) -> Score {
        self.scores[key as usize % SCORES]
    }

    fn count(&mut self, key: u64, good: bool) {
        let score = &mut self.scores[key as usize % SCORES];
        *(if good { &mut score.good } else { &mut score.bad }) += 1;
        if score.good.max(score.bad) > 250 {
            score.good /= 2;
            score.bad /= 2;
        }
    }
}

#[inline(always)]
fn mix(v: u64) -> u64 {
    let v = (v ^ v >> 29).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    v ^ v >> 32
}

fn here(all: u64, thread: usize) -> u64 {
    mix(all ^ (thread as u64 + 1) << 48)
}

fn pair(one: u32, other: u32) -> u64 {
    mix(u64::from(one) << 32 | u64::from(other))
}
