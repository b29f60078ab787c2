//! Env files: no text may panic or hang, and every assignment stands where it says.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::source::dotenv;

fuzz_target!(|text: &str| {
    let lookup = |name: &str| (name == "HOST").then(|| "host".to_owned());
    for found in [
        dotenv::parse(text, &dotenv::Scope::above(&lookup), &mut |_| {}),
        dotenv::parse_raw(text, &lookup),
    ] {
        match found {
            Ok(found) => {
                for (name, assignment) in found {
                    let at = assignment.start as usize..assignment.end as usize;
                    assert_eq!(text.get(at), Some(&*name));
                }
            }
            Err(error) => assert!(error.line() <= text.lines().count() + 1),
        }
    }
});
