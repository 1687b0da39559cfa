//! The outcome of one execution of a scenario: the final values that its properties speak of.
//!
//! An outcome says nothing about how it came to be, so that machines without the simulator's world
//! have outcomes, too: real page tables at EL2, and a live KVM, which shows its user nothing but
//! memory and dirty logs. What they see is compared with what the simulator allows, by file.
//!
//! # What is in it
//!
//! * For each frame of the slots, in order of gfn, but for frames that hold guest page tables
//!   (their contents are an encoding of each machine's own): the *content* that user space would
//!   read after the stop phase, and in slots with dirty logging, or whose log begins, the *copy*,
//!   the destination of the migration.
//! * What each GET_DIRTY_LOG reported: those of each thread in the order in which it made them, by
//!   thread index, and last those of the stop phase. How the calls of two threads interleave is
//!   not in it.
//!
//! # Eight bytes stand for a page
//!
//! Contents are numbers of 64 bits. Memory begins as 0, and so do the copies. vCPU `i` (the
//! threads of a scenario number vCPUs first) stores to byte `i` only, counted from the lowest; its
//! operation at index `n` of its program stores `n + 1` there ([`stored`]). A machine with
//! real pages does so with the first eight bytes of each, byte `i` at offset `i`.
//!
//! # Text
//!
//! ```text
//! outcome = "nothing" | item { " " item }     frames in order of gfn, then harvests
//! item    = "gfn" N "=" page                  a slot without dirty logging: the content
//!         | "gfn" N "=" page "/" page         with it, or it begins: the content, and the copy
//!         | "t" N ".slot" N "=" frames        reported to thread N
//!         | "stop.slot" N "=" frames          reported in the stop phase
//! page    = "0x" hexadecimal, lower case, no leading zeros ("0x0" for 0)
//! frames  = "{" [ "gfn" N { "," "gfn" N } ] "}"   in order of gfn
//! N       = decimal, no leading zeros
//! ```
//!
//! One outcome has one text: [`FromStr`] refuses any other. Example:
//! `gfn0=0x201/0x1 gfn1=0x0/0x0 t2.slot0={gfn0} stop.slot0={}`.
//!
//! # Lines of a file
//!
//! Outcomes travel as lines of JSON, one object each, of which [`Line`] is the writer (no spaces
//! but in outcomes, keys in this order, `spte` where the machine names its layout of SPTEs). One
//! line, broken here:
//!
//! ```text
//! {"kvmmu-outcome":1,"machine":"el2","scenario":"aba-direct","without":[],"spte":"stage2",
//! "outcome":"gfn0=0x1/0x1","count":90}
//! ```
//!
//! `without` lists the guards that the machine ran without, by name; `count` says how often the
//! outcome was seen, at least once. Lines of one scenario need not be together; equal lines add up.

use alloc::vec::Vec;
use core::fmt;
use core::num::NonZeroU64;
use core::str::FromStr;

use kvmmu_model::{CpuId, Gfn, GuardSet};

use crate::machine::{own_byte, with_byte};
use crate::ops::{Op, UserOp};
use crate::scenario::Scenario;

/// The version of lines and texts.
pub const VERSION: u32 = 1;

/// The most calls of GET_DIRTY_LOG in one execution.
pub const HARVESTS_MAX: usize = 16;

/// Who asked for a dirty log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Asker {
    /// A thread, by index.
    Thread(u8),
    /// The stop phase.
    Stop,
}

/// What one GET_DIRTY_LOG reported.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Harvest {
    /// To whom.
    pub to: Asker,
    /// The slot, by index.
    pub slot: u8,
    /// The frames, a bit for each gfn (not: for each page of the slot).
    pub frames: u64,
}

/// A frame at the end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Frame {
    /// Which.
    pub gfn: Gfn,
    /// What is in it.
    pub content: u64,
    /// What user space has copied; `None`: its slot has no dirty log.
    pub copy: Option<u64>,
}

/// The outcome of one execution.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Outcome {
    frames: Vec<Frame>,
    harvests: Vec<Harvest>,
}

impl Outcome {
    /// The outcome of an execution of `scenario`. `content` and `copy` read a frame and its copy;
    /// `harvests` must have those of each thread, and those of the stop phase, in order.
    pub fn new(
        scenario: &Scenario,
        mut content: impl FnMut(Gfn) -> u64,
        mut copy: impl FnMut(Gfn) -> u64,
        harvests: impl IntoIterator<Item = Harvest>,
    ) -> Outcome {
        let frames = frames(scenario).map(|(gfn, logged)| Frame {
            gfn,
            content: content(gfn),
            copy: logged.then(|| copy(gfn)),
        });
        let mut frames: Vec<Frame> = frames.collect();
        frames.sort_by_key(|frame| frame.gfn);
        let mut harvests: Vec<Harvest> = harvests.into_iter().collect();
        // Stable: calls of one thread stay in order.
        harvests.sort_by_key(|harvest| harvest.to);
        Outcome { frames, harvests }
    }

    /// The frames, in order of gfn.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// What was harvested: by thread, and then in order.
    pub fn harvests(&self) -> &[Harvest] {
        &self.harvests
    }
}

/// The frames that outcomes of `scenario` have, slot by slot, and whether their slot is logged.
pub fn frames(scenario: &Scenario) -> impl Iterator<Item = (Gfn, bool)> {
    let is_table = |gfn: u64| scenario.guest_tables.iter().any(|t| t.gfn.0 == gfn);
    scenario.slots.iter().enumerate().flat_map(move |(i, slot)| {
        let gfns = slot.base.0..slot.base.0 + u64::from(slot.pages);
        let logged = slot.log || begins_log(scenario, i);
        gfns.filter(move |gfn| !is_table(*gfn)).map(move |gfn| (Gfn(gfn), logged))
    })
}

/// A program begins the log of this slot.
fn begins_log(scenario: &Scenario, slot: usize) -> bool {
    use UserOp::{StartDirtyLog, StartDirtyLogSet};
    let of = |op| match op {
        Op::User(StartDirtyLog(of) | StartDirtyLogSet(of)) => usize::from(of.0) == slot,
        _ => false,
    };
    scenario.ops().any(of)
}

/// How often executions of `scenario` call GET_DIRTY_LOG at most.
pub fn harvests_max(scenario: &Scenario) -> usize {
    use UserOp::{FetchDirtyLog, GetDirtyLog};
    let asks = |op: &Op| matches!(op, Op::User(GetDirtyLog(_) | FetchDirtyLog(_)));
    scenario.ops().filter(asks).count()
}

/// What a page holds after a store by operation `index` of a vCPU's program.
pub fn stored(page: u64, cpu: CpuId, index: usize) -> u64 {
    with_byte(page, own_byte(cpu), token(index))
}

/// The value that the operation at this index of a vCPU's program stores.
pub fn token(index: usize) -> u8 {
    index as u8 + 1
}

/// What was harvested so far, with room for [`HARVESTS_MAX`]: what a world records where it is
/// asked to. Equal for equal outcomes: calls of different threads commute.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Harvests {
    list: [Option<Harvest>; HARVESTS_MAX],
}

impl Harvests {
    /// Nothing yet.
    pub const EMPTY: Harvests = Harvests { list: [None; HARVESTS_MAX] };

    /// Adds one behind those of the same thread.
    ///
    /// # Panics
    /// If there is no room: who asks for a record has looked at [`harvests_max`].
    pub fn push(&mut self, harvest: Harvest) {
        assert!(self.list[HARVESTS_MAX - 1].is_none(), "more than {HARVESTS_MAX} dirty logs");
        let at = self.iter().filter(|h| h.to <= harvest.to).count();
        self.list[at..].rotate_right(1);
        self.list[at] = Some(harvest);
    }

    /// All of them, as outcomes have them.
    pub fn iter(&self) -> impl Iterator<Item = Harvest> {
        self.list.iter().map_while(|harvest| *harvest)
    }
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Asker::Thread(thread) => write!(f, "t{thread}"),
            Asker::Stop => f.write_str("stop"),
        }
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gfn{}={:#x}", self.gfn.0, self.content)?;
        self.copy.map_or(Ok(()), |copy| write!(f, "/{copy:#x}"))
    }
}

impl fmt::Display for Harvest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.slot{}={{", self.to, self.slot)?;
        let frames = (0..64).filter(|gfn| self.frames >> gfn & 1 == 1);
        for (i, gfn) in frames.enumerate() {
            write!(f, "{}gfn{gfn}", if i == 0 { "" } else { "," })?;
        }
        f.write_str("}")
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.frames.is_empty() && self.harvests.is_empty() {
            return f.write_str("nothing");
        }
        for (i, frame) in self.frames.iter().enumerate() {
            write!(f, "{}{frame}", if i == 0 { "" } else { " " })?;
        }
        for (i, harvest) in self.harvests.iter().enumerate() {
            let first = i == 0 && self.frames.is_empty();
            write!(f, "{}{harvest}", if first { "" } else { " " })?;
        }
        Ok(())
    }
}

/// Why a text is no outcome.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ParseError {
    /// The item at this index, from 0, is neither a frame nor a harvest.
    Item(usize),
    /// It is an outcome, but not in the one form that it has: order, zeros, spaces, case.
    NotCanonical,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ParseError::Item(i) => write!(
                f,
                "item {} is neither a frame such as gfn0=0x201/0x1 nor a harvest such as \
                 t2.slot0={{gfn0,gfn1}}",
                i + 1
            ),
            ParseError::NotCanonical => f.write_str(
                "the items are not in canonical form: frames by gfn, then harvests by thread, \
                 one space between, numbers without leading zeros",
            ),
        }
    }
}

impl core::error::Error for ParseError {}

impl FromStr for Outcome {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Outcome, ParseError> {
        let mut outcome = Outcome::default();
        let items = text.split(' ').enumerate().filter(|_| text != "nothing");
        for (i, item) in items {
            match (frame(item), harvest(item)) {
                (Some(frame), _) => outcome.frames.push(frame),
                (None, Some(harvest)) => outcome.harvests.push(harvest),
                (None, None) => return Err(ParseError::Item(i)),
            }
        }
        let ordered = outcome.frames.is_sorted_by(|a, b| a.gfn < b.gfn)
            && outcome.harvests.is_sorted_by_key(|h| h.to);
        match ordered && Same(text).is(&outcome) {
            true => Ok(outcome),
            false => Err(ParseError::NotCanonical),
        }
    }
}

fn frame(item: &str) -> Option<Frame> {
    let (gfn, pages) = item.strip_prefix("gfn")?.split_once('=')?;
    let (content, copy) = match pages.split_once('/') {
        Some((content, copy)) => (content, Some(page(copy)?)),
        None => (pages, None),
    };
    Some(Frame { gfn: Gfn(gfn.parse().ok()?), content: page(content)?, copy })
}

fn page(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

fn harvest(item: &str) -> Option<Harvest> {
    let (place, frames) = item.split_once('=')?;
    let (to, slot) = place.split_once(".slot")?;
    let to = match to {
        "stop" => Asker::Stop,
        _ => Asker::Thread(to.strip_prefix('t')?.parse().ok()?),
    };
    let list = frames.strip_prefix('{')?.strip_suffix('}')?;
    let mut frames = 0_u64;
    for gfn in list.split(',').filter(|_| !list.is_empty()) {
        let gfn: u32 = gfn.strip_prefix("gfn")?.parse().ok()?;
        frames |= 1_u64.checked_shl(gfn)?;
    }
    Some(Harvest { to, slot: slot.parse().ok()?, frames })
}

/// Compares what is written with a text.
struct Same<'a>(&'a str);

impl Same<'_> {
    fn is(mut self, value: &impl fmt::Display) -> bool {
        fmt::write(&mut self, format_args!("{value}")).is_ok() && self.0.is_empty()
    }
}

impl fmt::Write for Same<'_> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        self.0 = self.0.strip_prefix(part).ok_or(fmt::Error)?;
        Ok(())
    }
}

/// A line of a file of outcomes. What it prints has no line break.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// The machine: `sim`, `el2` or `live`.
    pub machine: &'a str,
    /// The scenario's name.
    pub scenario: &'a str,
    /// The guards that the machine ran without.
    pub without: GuardSet,
    /// Its layout of SPTEs, as scenario files name it.
    pub spte: Option<&'a str>,
    /// What was seen.
    pub outcome: &'a Outcome,
    /// How often.
    pub count: NonZeroU64,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (machine, scenario) = (Quoted(self.machine), Quoted(self.scenario));
        write!(f, "{{\"kvmmu-outcome\":{VERSION},\"machine\":{machine},\"scenario\":{scenario}")?;
        f.write_str(",\"without\":[")?;
        for (i, guard) in self.without.iter().enumerate() {
            write!(f, "{}{}", if i == 0 { "" } else { "," }, Quoted(guard.info().name))?;
        }
        f.write_str("]")?;
        if let Some(spte) = self.spte {
            write!(f, ",\"spte\":{}", Quoted(spte))?;
        }
        write!(f, ",\"outcome\":\"{}\",\"count\":{}}}", self.outcome, self.count)
    }
}

/// A string of JSON.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
                c => write!(f, "{c}")?,
            }
        }
        f.write_str("\"")
    }
}
