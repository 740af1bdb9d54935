//! `No-Vary-Search` (draft-ietf-httpbis-no-vary-search): which queries of a path have the same response.

use http::{HeaderMap, HeaderName};

use super::structured::{self, Item};

/// The field of a response that names the insignificant parts of the query.
pub const NO_VARY_SEARCH: HeaderName = HeaderName::from_static("no-vary-search");

/// The maximum number of names in the field, 64. A field with more is ignored.
pub const MAX_NAMES: usize = 64;

/// A rule that decides which queries of a path have the same response.
///
/// ```
/// use http::HeaderMap;
/// use vestibule::semantics::cache::NoVarySearch;
///
/// let mut headers = HeaderMap::new();
/// headers.insert("no-vary-search", r#"key-order, params=("utm_source")"#.parse().unwrap());
/// let rule = NoVarySearch::of(&headers).unwrap();
/// assert!(rule.is_same("a=1&b=2&utm_source=x", "b=2&a=1"));
/// assert!(!rule.is_same("a=1", "a=2"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NoVarySearch {
    ignores_order: bool,
    ignored: Names,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Names {
    Only(Vec<Vec<u8>>),
    Except(Vec<Vec<u8>>),
}

impl NoVarySearch {
    /// Returns the rule of a response; `None` if each part of the query is significant: the field is absent or malformed, or has
    /// an invalid value for a known key.
    pub fn of(response: &HeaderMap) -> Option<Self> {
        let members = structured::dictionary(response, &NO_VARY_SEARCH)?;
        let (mut order, mut params, mut except) = (false, None, None);
        for (key, value) in members {
            match (&*key, value) {
                ("key-order", Item::Boolean(on)) => order = on,
                ("params", value @ (Item::Boolean(_) | Item::Texts(_))) => params = Some(value),
                ("except", Item::Texts(names)) => except = Some(names),
                ("key-order" | "params" | "except", _) => return None,
                _ => {}
            }
        }
        let decoded = |names: Vec<String>| names.iter().map(|name| decode(name)).collect();
        let ignored = match (params, except) {
            (Some(Item::Boolean(true)), except) => {
                Names::Except(decoded(except.unwrap_or_default()))
            }
            // `except` is valid only with a `params` that is true.
            (_, Some(_)) => return None,
            (Some(Item::Texts(names)), None) => Names::Only(decoded(names)),
            (_, None) => Names::Only(Vec::new()),
        };
        let (Names::Only(names) | Names::Except(names)) = &ignored;
        let ignores_nothing = !order && ignored == Names::Only(Vec::new());
        let is_useful = names.len() <= MAX_NAMES && !ignores_nothing;
        is_useful.then_some(Self { ignores_order: order, ignored })
    }

    /// Returns whether two queries have the same response.
    pub fn is_same(&self, a: &str, b: &str) -> bool {
        self.normalize(a) == self.normalize(b)
    }

    /// Returns the significant parameters of a query in a normal form: equivalent queries have the same one. Parameters are
    /// decoded as those of forms (`application/x-www-form-urlencoded`).
    pub fn normalize(&self, query: &str) -> Vec<u8> {
        let parameters = query.split('&').filter(|parameter| !parameter.is_empty());
        let mut parameters: Vec<(Vec<u8>, Vec<u8>)> = parameters
            .map(|parameter| {
                let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
                (decode(name), decode(value))
            })
            .filter(|(name, _)| !self.ignores(name))
            .collect();
        if self.ignores_order {
            // A stable sort: the order of parameters with the same name is significant.
            parameters.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
        let mut text = Vec::new();
        for part in parameters.iter().flat_map(|(name, value)| [name, value]) {
            text.extend_from_slice(&(part.len() as u64).to_le_bytes());
            text.extend_from_slice(part);
        }
        text
    }

    fn ignores(&self, name: &[u8]) -> bool {
        match &self.ignored {
            Names::Only(names) => names.iter().any(|known| known == name),
            Names::Except(names) => !names.iter().any(|known| known == name),
        }
    }
}

/// Decodes a name or value: `+` is a space, and bytes may be percent-encoded.
fn decode(text: &str) -> Vec<u8> {
    let (bytes, mut at) = (text.as_bytes(), 0);
    let digit = |at: usize| {
        let digit = bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
        digit.and_then(|digit| u8::try_from(digit).ok())
    };
    let mut decoded = Vec::with_capacity(bytes.len());
    while let Some(byte) = bytes.get(at) {
        at += 1;
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => match (digit(at), digit(at + 1)) {
                (Some(high), Some(low)) => {
                    at += 2;
                    high << 4 | low
                }
                _ => b'%',
            },
            byte => *byte,
        });
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(field: &str) -> Option<NoVarySearch> {
        let mut headers = HeaderMap::new();
        headers.insert(NO_VARY_SEARCH, field.parse().unwrap());
        NoVarySearch::of(&headers)
    }

    #[test]
    fn queries_are_compared_without_the_named_parameters() {
        for (field, a, b, is_same) in [
            ("key-order", "a=1&b=2", "b=2&a=1", true),
            ("key-order", "a=1&a=2", "a=2&a=1", false),
            (r#"params=("x")"#, "a=1&x=2", "x=3&a=1&x", true),
            (r#"params=("x")"#, "a=1&b=2", "b=2&a=1", false),
            (r#"params=("x y")"#, "x+y=1", "x%20y=2", true),
            (r#"params=("x+y")"#, "x+y=1", "x%20y=2", true),
            (r#"params, except=("q")"#, "q=1&a=2", "b=3&q=1", true),
            (r#"params, except=("q")"#, "q=1&a=2", "q=2&a=2", false),
            ("params", "a", "", true),
            ("params, other=1", "a", "", true),
            ("key-order", "a=", "a", true),
            ("key-order", "a=%31", "a=1", true),
            ("key-order", "a=%ff", "a=%fe", false),
            ("key-order", "a=%zz", "a=%25zz", true),
            ("key-order", "a=1%262", "a=1&2", false),
        ] {
            let rule = rule(field).unwrap();
            assert_eq!(rule.is_same(a, b), is_same, "{field}: {a} and {b}");
        }
    }

    #[test]
    fn malformed_field_ignores_nothing() {
        let names = |n: usize| format!("params=({})", vec![r#""x""#; n].join(" "));
        for field in [
            "",
            "key-order=?0",
            "key-order=1",
            "params=x",
            "params=(x)",
            "params=?0",
            "params=()",
            r#"except=("x")"#,
            r#"params=("a"), except=("x")"#,
            "params, except",
            r#"params=("x""#,
            &names(MAX_NAMES + 1),
        ] {
            assert_eq!(rule(field), None, "{field}");
        }
        assert!(rule(&names(MAX_NAMES)).is_some());
    }
}
