//! `SentForms`: forms of the fields named by `Vary` in which requests have selected an object.

use std::sync::OnceLock;

use http::HeaderMap;

use crate::semantics::cache::Vary;

/// The number of forms, 4. Most browsers send one of few.
const FORMS: usize = 4;

/// The maximum length of a form, 256 bytes. Longer ones, such as those of cookies, are not remembered.
const MAX_FORM: usize = 256;

/// The first forms that were found to select an object by their normal form, whose computation costs much more than a
/// comparison with them. A clone of an object starts without them, since it may get another `Vary`.
#[derive(Debug, Default)]
pub(super) struct SentForms([OnceLock<Box<[u8]>>; FORMS]);

impl SentForms {
    /// The maximum memory of the forms of an object, 1 KiB.
    pub(super) const MAX_MEMORY: usize = FORMS * MAX_FORM;

    /// Returns whether a request has one of the forms.
    pub(super) fn has(&self, vary: &Vary, request: &HeaderMap) -> bool {
        self.0.iter().map_while(OnceLock::get).any(|form| vary.is_sent_as(form, request))
    }

    /// Remembers the form of a request that selects the object.
    pub(super) fn add(&self, vary: &Vary, request: &HeaderMap) {
        if let Some(free) = self.0.iter().find(|form| form.get().is_none())
            && let Some(form) = vary.sent_form(request, MAX_FORM)
        {
            // Another request may have been first.
            let _ = free.set(form.into());
        }
    }
}

impl Clone for SentForms {
    fn clone(&self) -> Self {
        Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_is_remembered_up_to_bounds_of_number_and_length() {
        let request = |encoding: &str| {
            HeaderMap::from_iter([(http::header::ACCEPT_ENCODING, encoding.parse().unwrap())])
        };
        let vary = Vary::of(&HeaderMap::from_iter([(
            http::header::VARY,
            http::HeaderValue::from_static("accept-encoding"),
        )]));
        let forms = SentForms::default();
        forms.add(&vary, &request(&"x".repeat(MAX_FORM)));
        assert!(forms.0[0].get().is_none());
        for n in 0..=FORMS {
            forms.add(&vary, &request(&n.to_string()));
        }
        for n in 0..=FORMS {
            assert_eq!(forms.has(&vary, &request(&n.to_string())), n < FORMS, "{n}");
        }
        assert!(!forms.has(&vary, &HeaderMap::new()));
        assert!(!forms.clone().has(&vary, &request("0")));
    }
}
