//! What is known of the locks: the table, and of each order who says so and who was seen to follow
//! it.

use kvmmu_model::lock::order::{Authority, ORDERS, Order};
use kvmmu_model::lock::{Arch, LockInfo, Section};
use kvmmu_model::{Hold, LockClass, Mode};
use kvmmu_scenarios::lockdep::{Nesting, held_text, nesting_text, wanted_text};
use serde::Serialize;

use crate::lab::search::Search;
use crate::lab::together::Together;
use crate::report::trace::mode_text;

/// Everything that the command prints.
#[derive(Clone, Serialize, Debug)]
pub struct Survey {
    /// The version of this form.
    pub v: u32,
    /// `locks`.
    pub r#type: &'static str,
    /// Where and how orders were looked for.
    pub observed: How,
    /// The table, and the locks that scenario files declare, as far as they were taken.
    pub locks: Vec<Lock>,
    /// The document's orders.
    pub documented: Vec<Seen>,
    /// The locks that the document calls leaves, and others that are.
    pub leaves: Vec<Leaf>,
    /// Orders of the real code that the document does not mention.
    pub undocumented: Vec<Seen>,
    /// Orders that were seen and that follow from those above.
    pub implied: Vec<Seen>,
    /// Orders that were seen and that are not declared.
    pub undeclared: Vec<Seen>,
    /// Orders that were seen of locks that scenario files declare: nobody could declare them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub own: Vec<Seen>,
    /// Cycles of everything that was seen.
    pub cycles: Vec<Vec<Link>>,
    /// Scenarios in which something is violated although every guard is present.
    pub violations: Vec<Violated>,
}

/// Where and how orders were looked for.
#[derive(Clone, Serialize, Debug)]
pub struct How {
    /// How many scenarios.
    pub scenarios: usize,
    /// The strategy.
    pub strategy: String,
    /// The seed of all random choices.
    pub seed: u64,
    /// The most executions of each scenario, where the strategy samples.
    pub executions: Option<u64>,
    /// Scenarios of which less was looked at, because a bound was hit.
    pub cut: usize,
}

/// An entry of the table.
#[derive(Clone, Serialize, Debug)]
pub struct Lock {
    /// As the document writes it.
    pub name: &'static str,
    /// Its type.
    pub r#type: &'static str,
    /// As the document writes the type, where it writes it in another way.
    pub document_type: Option<&'static str>,
    /// Where it exists.
    pub arch: &'static str,
    /// Where the document has it: `reference`, `orders`, or `none` for KVM's and the host's; `file`
    /// if a scenario file declares it.
    pub section: &'static str,
    /// The scenario whose file declares it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scenario: Option<&'static str>,
    /// What it protects.
    pub protects: &'static [&'static str],
    /// What else a reader of the document should know.
    pub comment: &'static str,
    /// How often it was taken.
    pub taken: u64,
}

/// An order, and how often it was seen.
#[derive(Clone, Serialize, Debug)]
pub struct Seen {
    /// What is held.
    pub outer: Lockage,
    /// What is taken inside.
    pub inner: Lockage,
    /// True if the document says so.
    pub documented: bool,
    /// Where the real code nests them; empty: not known.
    pub nested_by: &'static str,
    /// How often it was seen.
    pub times: u64,
    /// In which scenarios, and how often in each.
    pub scenarios: Vec<(String, u64)>,
    /// The orders that it follows from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub follows_from: Vec<String>,
    /// True if it is part of a cycle.
    pub in_cycle: bool,
}

/// A lock and how it is held or wanted.
#[derive(Clone, Serialize, Debug)]
pub struct Lockage {
    /// The lock.
    pub lock: &'static str,
    /// The scenario whose file declares it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scenario: Option<&'static str>,
    /// `exclusive`, `read` or `grace-period`.
    pub mode: &'static str,
    /// In words.
    pub text: String,
}

/// A lock, and whether others are taken inside it.
#[derive(Clone, Serialize, Debug)]
pub struct Leaf {
    /// The lock.
    pub lock: &'static str,
    /// The document calls it a leaf: by its last sentence, as it names no order with it outside.
    pub document: bool,
    /// The table of the model calls it a leaf, and nothing else was seen.
    pub is_leaf: bool,
    /// How often it was taken.
    pub taken: u64,
    /// What was seen inside, or what the real code takes there.
    pub inside: Vec<Seen>,
}

/// A nesting of a cycle.
#[derive(Clone, Serialize, Debug)]
pub struct Link {
    /// What is held.
    pub outer: String,
    /// What is asked for.
    pub inner: String,
    /// Both, as a sentence.
    pub text: String,
    /// In which scenarios it was seen; none: it is declared.
    pub scenarios: Vec<String>,
}

/// A scenario in which something is violated although every guard is present.
#[derive(Clone, Serialize, Debug)]
pub struct Violated {
    /// The scenario.
    pub scenario: String,
    /// The property.
    pub property: &'static str,
    /// How, in words.
    pub detail: String,
}

impl Survey {
    /// Of what was seen together. `cut`: scenarios in which a bound was hit.
    pub fn new(
        together: &Together,
        violations: Vec<Violated>,
        search: &Search,
        cut: usize,
    ) -> Survey {
        let cycles = together.with_declared().cycles();
        let view = View { together, cycles: &cycles };
        let of = |authority| {
            let orders = ORDERS.iter().filter(move |order| order.authority == authority);
            orders.map(|order| view.order(order)).collect()
        };
        let (own, others): (Vec<Seen>, Vec<Seen>) =
            view.others().into_iter().partition(Seen::is_own);
        let (implied, undeclared) = others.into_iter().partition(|seen| {
            let Seen { follows_from, .. } = seen;
            !follows_from.is_empty()
        });
        Survey {
            v: 1,
            r#type: "locks",
            observed: How {
                scenarios: together.each().len(),
                strategy: format!("{:?}", search.strategy).to_lowercase(),
                seed: search.seed,
                executions: search.samples().then_some(search.executions_max),
                cut,
            },
            locks: classes().chain(view.own()).map(|class| view.lock(class)).collect(),
            documented: of(Authority::Document),
            leaves: classes().filter_map(|class| view.leaf(class)).collect(),
            undocumented: of(Authority::Code),
            implied,
            undeclared,
            own,
            cycles: cycles.iter().map(|cycle| view.links(cycle)).collect(),
            violations,
        }
    }
}

/// Every lock of the kernel, in the order of the table.
fn classes() -> impl Iterator<Item = LockClass> {
    LockClass::ALL.iter().copied().filter(|class| class.info().section != Section::Test)
}

impl Seen {
    /// True if a scenario file declares one of the locks.
    fn is_own(&self) -> bool {
        self.outer.scenario.is_some() || self.inner.scenario.is_some()
    }
}

/// A look at what was seen.
struct View<'a> {
    together: &'a Together,
    cycles: &'a [Vec<Nesting>],
}

impl View<'_> {
    /// How often a lock was taken, in any way.
    fn taken(&self, class: LockClass) -> u64 {
        let merged = self.together.merged();
        merged.acquisitions().filter(|(hold, _)| hold.class == class).map(|(_, n)| n).sum()
    }

    /// The locks that scenario files declare, as far as they were taken.
    fn own(&self) -> Vec<LockClass> {
        let taken = self.together.merged().acquisitions().map(|(hold, _)| hold.class);
        let mut own: Vec<LockClass> = taken.filter(|class| file(*class).is_some()).collect();
        own.dedup();
        own
    }

    fn lock(&self, class: LockClass) -> Lock {
        let LockInfo { name, kind, arch, section, protects, comment, .. } = class.info();
        Lock {
            name,
            r#type: kind.name(),
            document_type: document_type(class),
            arch: Arch::name(*arch),
            section: match section {
                Section::Reference => "reference",
                Section::Orders => "orders",
                Section::File(_) => "file",
                _ => "none",
            },
            scenario: file(class),
            protects,
            comment,
            taken: self.taken(class),
        }
    }

    fn seen(&self, nesting: Nesting, nested_by: &'static str) -> Seen {
        let each = self.together.each().iter();
        let times = each.map(|(name, locks)| (name.clone(), locks.times(nesting)));
        Seen {
            outer: lockage(nesting.outer, false),
            inner: lockage(nesting.inner, true),
            documented: false,
            nested_by,
            times: self.together.merged().times(nesting),
            scenarios: times.filter(|(_, times)| *times > 0).collect(),
            follows_from: Vec::new(),
            in_cycle: self.cycles.iter().any(|cycle| cycle.contains(&nesting)),
        }
    }

    fn order(&self, order: &Order) -> Seen {
        let nesting = Nesting { outer: order.outer, inner: order.inner };
        let documented = order.authority == Authority::Document;
        Seen { documented, ..self.seen(nesting, order.nested_by) }
    }

    /// What was seen of locks of two classes.
    fn pairs(&self) -> impl Iterator<Item = Nesting> {
        let kernel = |hold: Hold| hold.class.info().section != Section::Test;
        let nestings = self.together.merged().nestings();
        let pairs = nestings.map(|(nesting, _)| nesting);
        pairs.filter(move |Nesting { outer, inner }| {
            outer.class != inner.class && kernel(*outer) && kernel(*inner)
        })
    }

    /// The orders that were seen and that have no entry.
    fn others(&self) -> Vec<Seen> {
        let declared =
            |n: &Nesting| ORDERS.iter().any(|o| o.outer == n.outer && o.inner == n.inner);
        let told = |nesting: Nesting| {
            let seen = self.seen(nesting, "");
            // What closes a cycle follows from nothing.
            let chain = if seen.in_cycle { Vec::new() } else { chain(nesting) };
            let follows_from = chain.iter().map(|n| nesting_text(*n)).collect();
            Seen { follows_from, ..seen }
        };
        self.pairs().filter(|nesting| !declared(nesting)).map(told).collect()
    }

    /// What there is to say of a lock that the document calls a leaf, or that is one.
    fn leaf(&self, class: LockClass) -> Option<Leaf> {
        let info = class.info();
        let outer =
            |order: &&Order| order.outer.class == class && order.authority == Authority::Document;
        let in_document = matches!(info.section, Section::Reference | Section::Orders);
        let document = in_document && ORDERS.iter().find(outer).is_none();
        if !document && !info.leaf {
            return None;
        }
        let declared = ORDERS.iter().filter(|order| order.outer.class == class);
        let mut inside: Vec<Seen> = declared.clone().map(|order| self.order(order)).collect();
        let known =
            |n: &Nesting| declared.clone().any(|o| o.outer == n.outer && o.inner == n.inner);
        let seen = self.pairs().filter(|n| n.outer.class == class && !known(n));
        inside.extend(seen.map(|nesting| self.seen(nesting, "")));
        let is_leaf = info.leaf && inside.iter().all(|seen| seen.times == 0);
        Some(Leaf { lock: info.name, document, is_leaf, taken: self.taken(class), inside })
    }

    fn links(&self, cycle: &[Nesting]) -> Vec<Link> {
        let link = |nesting: &Nesting| {
            let each = self.together.each().iter();
            let has = each.filter(|(_, locks)| locks.nestings().any(|(n, _)| n == *nesting));
            Link {
                outer: held_text(nesting.outer),
                inner: wanted_text(nesting.inner),
                text: nesting_text(*nesting),
                scenarios: has.map(|(name, _)| name.clone()).collect(),
            }
        };
        cycle.iter().map(link).collect()
    }
}

fn lockage(hold: Hold, wanted: bool) -> Lockage {
    let text = if wanted { wanted_text(hold) } else { held_text(hold) };
    let (lock, scenario) = (hold.class.info().name, file(hold.class));
    Lockage { lock, scenario, mode: mode_text(hold.mode), text }
}

/// The scenario whose file declares a lock.
fn file(class: LockClass) -> Option<&'static str> {
    match class.info().section {
        Section::File(name) => Some(name),
        _ => None,
    }
}

/// The fewest declared orders that lead from the outer lock of `nesting` to its inner one; empty:
/// none do.
fn chain(nesting: Nesting) -> Vec<Nesting> {
    let from = |outer: Hold| ORDERS.iter().filter(move |order| order.outer == outer);
    let step = |order: &Order| Nesting { outer: order.outer, inner: order.inner };
    let mut ways: Vec<Vec<Nesting>> = from(nesting.outer).map(|order| vec![step(order)]).collect();
    let mut at = 0;
    while let Some(way) = ways.get(at).cloned() {
        at += 1;
        let Some(last) = way.last() else { continue };
        if last.inner == nesting.inner {
            return way;
        }
        // A grace period is waited for and never held: nothing is inside it.
        if last.inner.mode == Mode::Synchronize {
            continue;
        }
        for order in from(last.inner) {
            if !ways.iter().flatten().any(|known| known.inner == order.inner) {
                ways.push([way.as_slice(), &[step(order)]].concat());
            }
        }
    }
    Vec::new()
}

/// As the document writes the type of a lock, where it writes it in another way.
fn document_type(class: LockClass) -> Option<&'static str> {
    match class {
        LockClass::TscWriteLock => Some("raw_spinlock"),
        LockClass::KvmSrcu => Some("srcu lock"),
        _ => None,
    }
}
