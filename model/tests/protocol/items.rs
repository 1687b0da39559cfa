//! The items of a source file: what each is called, what its documentation says, and its text.

use std::collections::BTreeMap;

use syn::spanned::Spanned;
use syn::{Attribute, Expr, ImplItem, Item, Lit, Meta, Type};

use crate::strip::strip;

/// A source file, taken apart.
pub(crate) struct File {
    /// The documentation of the module.
    pub(crate) prose: String,
    /// Its items, in their order.
    pub(crate) items: Vec<Described>,
}

/// An item.
pub(crate) struct Described {
    /// The kernel's name, or ours.
    pub(crate) name: String,
    /// What its documentation says.
    pub(crate) prose: String,
    /// Its text without the tool's lines; functions only where they have a body that says more than
    /// its prose.
    pub(crate) code: String,
}

/// Whose functions are the protocol's: other types' are plumbing.
const PROTOCOL: [&str; 2] = ["Vm", "Transitions"];

/// What the protocol does not use, or an observer only.
const LEFT_OFF: [&str; 16] = [
    "new",
    "guarded",
    "transitions",
    "is_legal_leaf",
    "ad_need_write_protect",
    "fault_is_present",
    "hardware_update",
    "hardware_walk",
    "leaf_table",
    "zap_all_but_roots",
    "kvm_mmu_zap_all_fast",
    "VmConfig",
    "KvmMrChange",
    "MemslotConfig",
    "all_spte_locs",
    "direct_pages",
];

/// Whose functions are shown as the methods that they are.
const METHODS: [&str; 9] = [
    "MemslotSet",
    "SpteFormat",
    "Published",
    "ShadowWalk",
    "GuestWalk",
    "ShadowPage",
    "Role",
    "Header",
    "Gpte",
];

/// Takes a file apart. `docs`: what a trait says of the functions that are implemented here.
pub(crate) fn file(source: &str, docs: &BTreeMap<String, String>) -> File {
    let file = syn::parse_file(source).expect("the model is Rust");
    let mut items = Vec::new();
    for item in &file.items {
        match item {
            Item::Struct(it) => items.push(data(source, &it.ident, &it.attrs, item)),
            Item::Enum(it) => items.push(data(source, &it.ident, &it.attrs, item)),
            Item::Const(it) if it.ident != "_" => {
                items.push(data(source, &it.ident, &it.attrs, item));
            }
            Item::Type(it) => items.push(data(source, &it.ident, &it.attrs, item)),
            Item::Trait(it) if it.ident == "Host" => {
                let text = after_attributes(source, &it.attrs, item.span());
                let (name, prose) = (it.ident.to_string(), prose(&it.attrs));
                items.push(Described {
                    name,
                    prose,
                    code: text.replace("    #[track_caller]\n", "").replace("pub ", ""),
                });
            }
            Item::Impl(it) if PROTOCOL.contains(&type_name(&it.self_ty).as_str()) => {
                // What is asked of a value, and not done to shared memory, says of what.
                let name = type_name(&it.self_ty);
                let prefix = if name == "Vm" { String::new() } else { name + "::" };
                items.extend(functions(source, &it.items, docs, &prefix));
            }
            Item::Impl(it)
                if it
                    .trait_
                    .as_ref()
                    .is_some_and(|t| t.1.is_ident("Mmu") || last(&t.1) == "Mmu") =>
            {
                items.extend(functions(source, &it.items, docs, ""));
            }
            Item::Impl(it) if METHODS.contains(&type_name(&it.self_ty).as_str()) => {
                let name = type_name(&it.self_ty);
                let kept = it.items.iter().filter(|item| match item {
                    ImplItem::Fn(f) => !is_left_off(&f.sig.ident.to_string(), &name),
                    _ => true,
                });
                let kept: String =
                    kept.map(|item| after_attributes(source, &[], item.span())).collect();
                if kept.is_empty() {
                    continue;
                }
                let head = after_attributes(source, &[], it.impl_token.span());
                let code = without_links(&format!("{head}{kept}}}\n"))
                    .replace("pub(crate) ", "")
                    .replace("pub(super) ", "")
                    .replace("pub ", "")
                    .replace("    #[inline]\n", "")
                    .replace("    #[track_caller]\n", "")
                    .replace("    #[must_use]\n", "");
                let plain = ["SpteFormat", "Published"].contains(&name.as_str());
                let code = if plain { strip(&code) } else { code };
                let of = it.self_ty.span();
                let line = source.lines().nth(of.start().line - 1).unwrap_or_default();
                let name = format!("impl {}", &line[of.start().column..of.end().column]);
                items.push(Described { name, prose: String::new(), code });
            }
            Item::Fn(it) => {
                let text = after_attributes(source, &it.attrs, item.span());
                let (name, prose) = (it.sig.ident.to_string(), prose(&it.attrs));
                items.push(Described { name, prose, code: strip(&text) });
            }
            _ => {}
        }
    }
    items.retain(|item| !is_left_off(item.name.rsplit("::").next().unwrap_or_default(), ""));
    File { prose: prose(&file.attrs), items }
}

/// A walk begins with its `new`; what else is called so sets up a run.
fn is_left_off(name: &str, of: &str) -> bool {
    LEFT_OFF.contains(&name) && !(name == "new" && of.ends_with("Walk"))
}

/// What a trait says of each of its functions.
pub(crate) fn trait_docs(source: &str) -> BTreeMap<String, String> {
    let file = syn::parse_file(source).expect("the model is Rust");
    let traits = file.items.iter().filter_map(|item| match item {
        Item::Trait(it) => Some(it),
        _ => None,
    });
    let functions = traits.flat_map(|it| &it.items).filter_map(|item| match item {
        syn::TraitItem::Fn(f) => Some((f.sig.ident.to_string(), prose(&f.attrs))),
        _ => None,
    });
    functions.collect()
}

fn functions(
    source: &str,
    items: &[ImplItem],
    docs: &BTreeMap<String, String>,
    prefix: &str,
) -> Vec<Described> {
    let functions = items.iter().filter_map(|item| match item {
        // What has the name of what it calls is on the page already.
        ImplItem::Fn(f) if forwards_to(f).is_none_or(|to| f.sig.ident != to) => Some((f, item)),
        _ => None,
    });
    let one = |(f, item): (&syn::ImplItemFn, &ImplItem)| {
        let name = f.sig.ident.to_string();
        let text = after_attributes(source, &f.attrs, item.span());
        if let Some(to) = forwards_to(f) {
            let prose = format!("`{name}`, of this MMU, is `{to}`.");
            return Described { name, prose, code: String::new() };
        }
        let own = prose(&f.attrs);
        Described {
            prose: if own.is_empty() { docs.get(&name).cloned().unwrap_or_default() } else { own },
            name: prefix.to_owned() + &name,
            code: strip(&dedent(&text)),
        }
    };
    functions.map(one).collect()
}

/// `fn f(vm, x) { vm.g(x) }`: the name of `g`.
fn forwards_to(f: &syn::ImplItemFn) -> Option<String> {
    let [syn::Stmt::Expr(Expr::MethodCall(call), _)] = &f.block.stmts[..] else { return None };
    let to_vm = matches!(&*call.receiver, Expr::Path(path) if path.path.is_ident("vm"));
    to_vm.then(|| call.method.to_string())
}

fn data(
    source: &str,
    name: &syn::Ident,
    attributes: &[Attribute],
    item: &impl Spanned,
) -> Described {
    let code = strip(&after_attributes(source, attributes, item.span()));
    Described { name: name.to_string(), prose: prose(attributes), code }
}

fn last(path: &syn::Path) -> String {
    path.segments.last().map(|s| s.ident.to_string()).unwrap_or_default()
}

fn type_name(ty: &Type) -> String {
    match ty {
        Type::Path(path) => last(&path.path),
        _ => String::new(),
    }
}

/// The documentation, links as plain names.
fn prose(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(lit) => match &lit.lit {
                Lit::Str(text) => Some(text.value()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    let lines: Vec<String> =
        lines.map(|line| line.strip_prefix(' ').unwrap_or(&line).to_owned()).collect();
    without_links(&lines.join("\n"))
        .replace("\nLocks: ", "\n**Locks:** ")
        .replace("\n# Panics\n", "\n**Panics** ")
        .replace("\n# Errors\n", "\n**Errors:** ")
}

/// Links as plain names.
pub(crate) fn without_links(text: &str) -> String {
    let text = text.replace("[`Vm::", "`").replace("[`", "`").replace("`]", "`");
    text.replace("crate::vm::", "").replace("crate::virt::memslots::", "").replace("crate::", "")
}

/// The text of an item from behind its attributes on.
fn after_attributes(source: &str, attributes: &[Attribute], span: proc_macro2::Span) -> String {
    let lines: Vec<&str> = source.lines().collect();
    let outer = attributes.iter().map(|a| a.span().end().line).max();
    let from = outer.map_or(span.start().line - 1, |line| line);
    lines[from..span.end().line].iter().fold(String::new(), |text, line| text + line + "\n")
}

fn dedent(text: &str) -> String {
    let lines = text.lines().map(|line| line.strip_prefix("    ").unwrap_or(line));
    lines.fold(String::new(), |text, line| text + line + "\n")
}
