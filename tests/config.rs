//! `mailrace check-config` on every file of `tests/data/config`: its output must be NAME.expected, octet for
//! octet. After a wanted change: `UPDATE_EXPECTED=1 cargo test --test config`, and read the difference.

use std::path::Path;
use std::process::Command;

#[test]
fn every_file_is_answered_as_expected() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/config");
    let update = std::env::var_os("UPDATE_EXPECTED").is_some();
    let mut names: Vec<_> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".toml"))
        .collect();
    names.sort();
    names.push("absent.toml".to_owned());
    assert!(names.len() > 8, "{names:?}");
    let mut wrong = Vec::new();
    for name in names {
        let output = Command::new(env!("CARGO_BIN_EXE_mailrace"))
            .args(["check-config", &name])
            .current_dir(&directory)
            .output()
            .unwrap();
        let got = format!(
            "{}{}exit {}\n",
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
            output.status.code().unwrap()
        );
        let path = directory.join(name.replace(".toml", ".expected"));
        if update {
            std::fs::write(&path, &got).unwrap();
        } else if std::fs::read_to_string(&path).ok().as_deref() != Some(&got) {
            wrong.push(format!("── {name} answers\n{got}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
