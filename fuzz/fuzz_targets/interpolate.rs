//! Templates: no text may panic or hang, and text without a dollar stays as it is.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::source::interpolate;

fuzz_target!(|text: &str| {
    let lookup = |name: &str| (name.len() == 1).then(|| name.to_lowercase());
    let result = interpolate::substitute(text, &lookup, &mut |_| {});
    if !text.contains('$') {
        assert_eq!(result.as_deref().ok(), Some(text));
    }
    let escaped = text.replace('$', "$$");
    let same = interpolate::substitute(&escaped, &lookup, &mut |_| {});
    assert_eq!(same.as_deref().ok(), Some(text));
    let mut found = Vec::new();
    interpolate::variables(text, &mut found);
    if result.is_ok() && found.is_empty() {
        assert!(!text.replace("$$", "").contains("${"));
    }
});
