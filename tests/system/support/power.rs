//! A power cut, made from a trace of the system calls: what the disk of a machine would hold that lost everything
//! which no sync had promised. Knows files and directories and nothing of what is in them.
//!
//! The disk of this model is as forgetful as POSIX allows: an octet is there when a sync of its file began after the
//! write of it had ended, a name when a sync of its directory did. Both only from the end of that sync on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One system call, from the moment when it began.
#[derive(Debug)]
struct Call<'a> {
    name: &'a str,
    /// What stands between the parentheses, with what a later line adds when it was interrupted.
    arguments: String,
    result: &'a str,
}

/// A file: what it holds, and what it would hold after a power cut.
#[derive(Clone, Debug, Default)]
struct Inode {
    content: Vec<u8>,
    durable: Vec<u8>,
    is_directory: bool,
    /// Of a directory, by name.
    entries: BTreeMap<String, usize>,
    durable_entries: BTreeMap<String, usize>,
    /// Which sync made it so: of two that overlap, the one that began later, whichever ended first.
    durable_since: u64,
}

/// What the disk has heard so far of one directory and everything below it.
pub struct PowerCut {
    root: PathBuf,
    inodes: Vec<Inode>,
    /// Calls that have begun and not ended, by thread: their first half and, of a sync, what it will have made durable.
    begun: BTreeMap<u32, (String, Option<(usize, Inode)>)>,
    /// Syncs that have begun.
    syncs: u64,
    /// Of the syncs that will fail, so many bring all to the disk, whatever they say: the first ones.
    pub failed_but_kept: usize,
}

/// Something that was said to a peer.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its octets.
    pub octets: Vec<u8>,
}

impl PowerCut {
    /// What strace must be told so that its words can be read here.
    pub const STRACE: [&str; 9] = [
        "-y",
        "-xx",
        "-s",
        "8388608",
        "-e",
        "trace=openat,mkdir,mkdirat,write,pwrite64,pwritev,writev,ftruncate,fdatasync,fsync,rename,renameat,renameat2,\
         unlink,unlinkat,sendto,sendmsg",
        "-e",
        "signal=none",
        "-o",
    ];

    /// A directory that exists and is empty.
    pub fn of(root: &Path) -> Self {
        let directory = Inode { is_directory: true, ..Inode::default() };
        Self { root: root.to_path_buf(), inodes: vec![directory], begun: BTreeMap::new(), syncs: 0, failed_but_kept: 0 }
    }

    /// A file that is there and durable before the first line of the trace, in a directory that may not be.
    pub fn has(&mut self, path: &Path, content: Vec<u8>) {
        let directory = path.parent().unwrap();
        if self.find(directory).is_none() {
            self.make(directory, true);
        }
        let file = self.make(path, false).expect("it is below the root");
        self.inodes[file].durable.clone_from(&content);
        self.inodes[file].content = content;
        for inode in &mut self.inodes {
            inode.durable_entries.clone_from(&inode.entries);
        }
    }

    /// The next line of the trace. Gives what is about to be said to a peer: as it begins, not as it ends.
    pub fn hear(&mut self, line: &str) -> Option<Said> {
        let (thread, rest) = line.split_once(' ')?;
        let thread: u32 = thread.parse().unwrap_or_else(|_| panic!("no thread in {line:.100}"));
        let rest = rest.trim_start();
        if let Some(rest) = rest.strip_prefix("<... ") {
            let (_, tail) = rest.split_once(" resumed>").expect("a call that goes on");
            let (head, sync) = self.begun.remove(&thread).expect("its beginning was there");
            self.end(&format!("{head}{tail}"), sync);
            return None;
        }
        if rest.starts_with("+++") || rest.starts_with("---") {
            return None;
        }
        let said = rest.starts_with("send").then(|| Said { octets: strings(rest).concat() });
        let sync = self.sync_begins(rest);
        match rest.strip_suffix("<unfinished ...>") {
            Some(head) => drop(self.begun.insert(thread, (head.trim_end().to_owned(), sync))),
            None => self.end(rest, sync),
        }
        said
    }

    /// Of a sync, what it will have made durable when it ends well.
    fn sync_begins(&mut self, call: &str) -> Option<(usize, Inode)> {
        let arguments = call.strip_prefix("fdatasync(").or_else(|| call.strip_prefix("fsync("))?;
        let inode = self.find(&descriptor(arguments)?)?;
        self.syncs += 1;
        Some((inode, Inode { durable_since: self.syncs, ..self.inodes[inode].clone() }))
    }

    fn end(&mut self, text: &str, sync: Option<(usize, Inode)>) {
        let call = parse(text);
        if call.result.starts_with('-') || call.result.starts_with('?') {
            if sync.is_none() || self.failed_but_kept == 0 {
                return;
            }
            self.failed_but_kept -= 1;
        }
        if let Some((inode, then)) = sync {
            let inode = &mut self.inodes[inode];
            if then.durable_since > inode.durable_since {
                inode.durable = then.content;
                inode.durable_entries = then.entries;
                inode.durable_since = then.durable_since;
            }
            return;
        }
        let paths =
            || strings(&call.arguments).into_iter().map(|path| self.root.join(text_of(path))).collect::<Vec<_>>();
        match call.name {
            "openat" => self.opened(&call),
            "mkdir" | "mkdirat" => drop(self.make(&paths()[0], true)),
            "write" | "pwrite64" | "pwritev" | "writev" => self.written(&call),
            "ftruncate" => {
                let length = call.arguments.rsplit(", ").next().and_then(|length| length.parse().ok());
                if let Some(inode) = descriptor(&call.arguments).and_then(|path| self.find(&path)) {
                    self.inodes[inode].content.resize(length.expect("a length"), 0);
                }
            }
            "rename" | "renameat" | "renameat2" => {
                let paths = paths();
                if let Some(inode) = self.take(&paths[0]) {
                    self.put(&paths[1], inode);
                }
            }
            "unlink" | "unlinkat" => drop(self.take(&paths()[0])),
            _ => {}
        }
    }

    fn opened(&mut self, call: &Call<'_>) {
        let Some(path) = descriptor(call.result) else { return };
        if call.arguments.contains("O_CREAT") && self.find(&path).is_none() {
            self.make(&path, false);
        }
        if call.arguments.contains("O_TRUNC")
            && let Some(inode) = self.find(&path)
        {
            self.inodes[inode].content.clear();
        }
    }

    fn written(&mut self, call: &Call<'_>) {
        let Some(inode) = descriptor(&call.arguments).and_then(|path| self.find(&path)) else { return };
        let octets = strings(&call.arguments).concat();
        let count: usize = call.result.parse().expect("a count");
        assert!(octets.len() >= count, "strace has kept all octets: {} of {count}", octets.len());
        let content = &mut self.inodes[inode].content;
        let at = match call.name {
            // None of the engine's files is written from somewhere else than its end but by position.
            "write" | "writev" => content.len(),
            _ => call.arguments.rsplit(", ").next().and_then(|at| at.parse().ok()).expect("a position"),
        };
        if content.len() < at + count {
            content.resize(at + count, 0);
        }
        content[at..at + count].copy_from_slice(&octets[..count]);
    }

    /// The inode at an absolute path; `None` when it is not below the root.
    fn find(&self, path: &Path) -> Option<usize> {
        let relative = path.strip_prefix(&self.root).ok()?;
        let mut inode = 0;
        for part in relative.iter() {
            inode = *self.inodes[inode].entries.get(part.to_str()?)?;
        }
        Some(inode)
    }

    fn make(&mut self, path: &Path, is_directory: bool) -> Option<usize> {
        path.strip_prefix(&self.root).ok()?;
        self.inodes.push(Inode { is_directory, ..Inode::default() });
        let inode = self.inodes.len() - 1;
        self.put(path, inode);
        Some(inode)
    }

    fn put(&mut self, path: &Path, inode: usize) {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return };
        if let Some(parent) = self.find(parent) {
            self.inodes[parent].entries.insert(name.to_str().unwrap().to_owned(), inode);
        }
    }

    fn take(&mut self, path: &Path) -> Option<usize> {
        let parent = self.find(path.parent()?)?;
        self.inodes[parent].entries.remove(path.file_name()?.to_str()?)
    }

    /// Files that would be there after a power cut now, by path below the root, with what they would hold.
    pub fn files(&self) -> Vec<(PathBuf, &[u8])> {
        let mut files = Vec::new();
        self.collect(0, Path::new(""), &mut files);
        files
    }

    fn collect<'a>(&'a self, directory: usize, path: &Path, files: &mut Vec<(PathBuf, &'a [u8])>) {
        for (name, &inode) in &self.inodes[directory].durable_entries {
            let path = path.join(name);
            if self.inodes[inode].is_directory {
                self.collect(inode, &path, files);
            } else {
                files.push((path, &self.inodes[inode].durable));
            }
        }
    }

    /// Makes below `target` what a power cut now would leave.
    pub fn write_to(&self, target: &Path) {
        for (path, content) in self.files() {
            let path = target.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
    }
}

fn parse(text: &str) -> Call<'_> {
    let (name, rest) = text.split_once('(').unwrap_or_else(|| panic!("no call: {text:.200}"));
    let (arguments, result) = rest.rsplit_once(") = ").or_else(|| rest.rsplit_once(" = ")).unwrap_or((rest, "?"));
    Call { name, arguments: arguments.trim_end().trim_end_matches(')').to_owned(), result: result.trim() }
}

/// The path of a leading descriptor, `5</path>` with each octet as `\x2f`.
fn descriptor(text: &str) -> Option<PathBuf> {
    let text = text.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix('<')?;
    let (path, _) = text.split_once('>')?;
    Some(PathBuf::from(text_of(unhex(path))))
}

/// All quoted strings of a call.
fn strings(text: &str) -> Vec<Vec<u8>> {
    let parts: Vec<&str> = text.split('"').collect();
    assert!(!parts.iter().skip(2).step_by(2).any(|after| after.starts_with("...")), "strace has cut a string short");
    parts.iter().skip(1).step_by(2).map(|quoted| unhex(quoted)).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |octet: u8| (octet as char).to_digit(16).expect("a hexadecimal digit") as u8;
    text.as_bytes().chunks_exact(4).map(|octet| digit(octet[2]) << 4 | digit(octet[3])).collect()
}

fn text_of(octets: Vec<u8>) -> String {
    String::from_utf8(octets).unwrap()
}
