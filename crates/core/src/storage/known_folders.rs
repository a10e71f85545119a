//! The folders that hold backups of this service: a file of the data folder with an absolute path a line. A folder that is in it and holds
//! no backup any more is the mount point of a disk that is not mounted.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::durable::make_folder;

/// Where they are written down.
#[derive(Debug)]
pub(crate) struct KnownFolders(PathBuf);

impl KnownFolders {
    /// In this file, which needn't be there.
    pub(crate) fn at(file: &Path) -> Self {
        Self(file.to_owned())
    }

    /// Whether a folder has held a backup.
    ///
    /// # Errors
    /// [`Error::Internal`] when the file can't be read.
    pub(crate) fn has(&self, folder: &Path) -> Result<bool, Error> {
        let known = self.read()?;
        Ok(names(folder).iter().any(|name| known.split(|byte| *byte == b'\n').any(|line| line == name)))
    }

    /// Writes down that a folder, which is there, holds a backup from now on.
    ///
    /// # Errors
    /// [`Error::Internal`] when the file can't be written.
    pub(crate) fn add(&self, folder: &Path) -> Result<(), Error> {
        let known = self.read()?;
        let is_new = |name: &Vec<u8>| known.split(|byte| *byte == b'\n').all(|line| line != name);
        let lines: Vec<u8> = names(folder).into_iter().filter(is_new).flat_map(|name| [name, vec![b'\n']].concat()).collect();
        if lines.is_empty() {
            return Ok(());
        }
        self.append(&lines).map_err(|error| self.failed("writing", &error))
    }

    fn append(&self, lines: &[u8]) -> io::Result<()> {
        if let Some(folder) = self.0.parent() {
            make_folder(folder)?;
        }
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.0)?;
        file.write_all(lines)?;
        file.sync_all()
    }

    fn read(&self) -> Result<Vec<u8>, Error> {
        match std::fs::read(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            read => read.map_err(|error| self.failed("reading", &error)),
        }
    }

    fn failed(&self, doing: &str, error: &io::Error) -> Error {
        Error::internal(&format!("{doing} {}", self.0.display()), error)
    }
}

/// A folder as it was named and as it is found, because a link may lead to the disk. None holds the end of a line.
fn names(folder: &Path) -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = [std::path::absolute(folder), folder.canonicalize()]
        .into_iter()
        .flatten()
        .map(|path| path.as_os_str().as_bytes().to_owned())
        .filter(|name| !name.contains(&b'\n'))
        .collect();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_known_by_its_name_and_by_where_a_link_leads() {
        let root = tempfile::tempdir().expect("temporary folder");
        let (disk, link) = (root.path().join("disk"), root.path().join("link"));
        std::fs::create_dir(&disk).expect("makes");
        std::os::unix::fs::symlink(&disk, &link).expect("links");
        let known = KnownFolders::at(&root.path().join("data/backup-folders"));
        assert!(!known.has(&link).expect("reads"));
        for _ in 0..2 {
            known.add(&link).expect("writes");
        }
        for folder in [&disk, &link] {
            assert!(known.has(folder).expect("reads"), "{}", folder.display());
        }
        std::fs::remove_dir(&disk).expect("removes");
        assert!(known.has(&link).expect("reads") && known.has(&disk).expect("reads"), "also when it is gone");
        assert!(!known.has(root.path()).expect("reads"));
        let text = std::fs::read_to_string(root.path().join("data/backup-folders")).expect("reads");
        assert_eq!(text.lines().count(), 2, "once each: {text}");
    }
}
