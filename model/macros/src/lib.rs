//! `#[kernel]`: the attribute by which the model names the kernel's functions.
//!
//! A reader and rust-analyzer see a plain function; an observer sees the kernel function begin and
//! end.

use proc_macro::{Delimiter, Group, TokenStream, TokenTree};

/// Makes a method run as the kernel function of its own name: its body goes through
/// `Platform::call`. Where Rust or the model needs another name, `#[kernel("FNAME(fetch)")]` says
/// the kernel's. The method's type has its platform in `self.p`.
#[proc_macro_attribute]
pub fn kernel(name: TokenStream, function: TokenStream) -> TokenStream {
    match called(&name, function) {
        Ok(function) => function,
        Err(why) => format!("compile_error!({why:?});").parse().unwrap_or_default(),
    }
}

/// The function with its body in a call.
fn called(name: &TokenStream, function: TokenStream) -> Result<TokenStream, String> {
    let mut tokens: Vec<TokenTree> = function.into_iter().collect();
    let body = match tokens.pop() {
        Some(TokenTree::Group(body)) if body.delimiter() == Delimiter::Brace => body,
        _ => return Err("#[kernel] names a function that has a body".to_owned()),
    };
    let name = if name.is_empty() { format!("{:?}", own_name(&tokens)?) } else { name.to_string() };
    let mut call = parsed(&format!("self.p.call({name}, ||)"))?;
    let Some(TokenTree::Group(arguments)) = call.pop() else {
        return Err(format!("#[kernel] takes a name in quotes, not {name}"));
    };
    // The body itself becomes the closure's: its lines and columns stay what they are.
    let closure = arguments.stream().into_iter().chain([TokenTree::Group(body.clone())]).collect();
    call.push(TokenTree::Group(Group::new(Delimiter::Parenthesis, closure)));
    let mut wrapped = Group::new(Delimiter::Brace, call.into_iter().collect());
    wrapped.set_span(body.span());
    tokens.push(TokenTree::Group(wrapped));
    Ok(tokens.into_iter().collect())
}

/// The name after `fn`.
fn own_name(function: &[TokenTree]) -> Result<String, String> {
    let mut words = function.iter().map(ToString::to_string).skip_while(|word| word != "fn");
    words.nth(1).ok_or_else(|| "#[kernel] names a function".to_owned())
}

fn parsed(text: &str) -> Result<Vec<TokenTree>, String> {
    let tokens: TokenStream = text.parse().map_err(|why| format!("#[kernel]: {why}"))?;
    Ok(tokens.into_iter().collect())
}
