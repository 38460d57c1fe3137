//! Unfinished code, told from text by the language's own words: a macro's name in a string or a comment is none.

use proc_macro2::{TokenStream, TokenTree};
use std::str::FromStr;

/// Macros that stand for code that is missing.
const MACROS: [&str; 2] = ["todo", "unimplemented"];

/// Where a call that stands for missing code is: line and column from one, and what it calls.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MissingCode {
    pub line: usize,
    pub column: usize,
    pub call: String,
}

/// Calls of the macros that stand for missing code. `None`: this is no Rust.
pub(super) fn missing_code(text: &str) -> Option<Vec<MissingCode>> {
    let tokens = TokenStream::from_str(text).ok()?;
    let mut found = Vec::new();
    visit(tokens, &mut found);
    Some(found)
}

fn visit(tokens: TokenStream, found: &mut Vec<MissingCode>) {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Ident(name) => {
                let is_call = matches!(tokens.peek(), Some(TokenTree::Punct(mark)) if mark.as_char() == '!');
                if is_call && MACROS.iter().any(|macro_name| name == macro_name) {
                    let start = name.span().start();
                    let call = format!("{name}!");
                    found.push(MissingCode { line: start.line, column: start.column + 1, call });
                }
            }
            TokenTree::Group(group) => visit(group.stream(), found),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_found_and_mentions_are_not() {
        let text = "/// Calls `todo!()`.\nfn a() { // todo!()\n    let x = \"todo!()\";\n    if x { std::todo!() }\n}\n\
                    fn b() { unimplemented! { } }\nlet todo = !x;\n";
        let found = missing_code(text).unwrap();
        let places: Vec<_> = found.iter().map(|found| (found.line, found.column, found.call.as_str())).collect();
        assert_eq!(places, [(4, 17, "todo!"), (6, 10, "unimplemented!")]);
    }

    #[test]
    fn what_is_no_rust_is_said() {
        assert_eq!(missing_code("fn a() { \"open"), None);
    }
}
