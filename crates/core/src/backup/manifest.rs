//! What a snapshot says of itself: lines of TOML, the last of which is the digest of those above it.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::Error;
use crate::db::{self, Holdings};
use crate::model::{Digest, Timestamp};
use crate::storage::backup_folder::FORMAT;

/// Before the digest of the lines above.
const SEAL: &str = "manifest_sha256 = ";

/// What a snapshot holds, and how to tell that it is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The version of the program that made it.
    pub program: String,
    /// The number of the schema's last migration.
    pub schema: i64,
    /// What tells its data from another service's.
    pub lineage: String,
    /// The identity of the store, which tells one copy of the data from another. None in snapshots of versions that did not write it down.
    pub store: Option<String>,
    /// When the rows were read.
    pub taken: Timestamp,
    /// What the database holds.
    pub holdings: Holdings,
    /// Blobs that the store could not give back: their rows are here, their bytes are not.
    pub damaged: u64,
    /// Bytes of the database's file.
    pub database_bytes: u64,
    /// Its sha-256.
    pub database_digest: Digest,
    /// The sha-256 of the list of blobs.
    pub list_digest: Digest,
}

impl Manifest {
    pub(super) fn to_text(&self) -> String {
        let Holdings { orgs, accounts, images, versions, bytes, newest_upload } = self.holdings;
        let Self { program, schema, lineage, taken, damaged, database_bytes, database_digest, list_digest, .. } = self;
        let newest_us = newest_upload.map_or(0, |time| time.0);
        let store = self.store.as_ref().map(|id| format!("store = \"{id}\"\n")).unwrap_or_default();
        let mut text = format!(
            "format = {FORMAT}\nprogram = \"{program}\"\nschema = {schema}\nlineage = \"{lineage}\"\n{store}taken = \"{}\"\ntaken_us = {}\norgs = {orgs}\n\
             accounts = {accounts}\nimages = {images}\nversions = {versions}\nblob_bytes = {bytes}\nnewest_upload_us = {newest_us}\n\
             damaged = {damaged}\ndatabase_bytes = {database_bytes}\ndatabase_sha256 = \"{database_digest}\"\n\
             blobs_sha256 = \"{list_digest}\"\n",
            taken.to_rfc3339(),
            taken.0,
        );
        let seal = Digest(Sha256::digest(text.as_bytes()).into());
        let _ = writeln!(text, "{SEAL}\"{seal}\"");
        text
    }

    /// # Errors
    /// [`Error::Invalid`] when a byte of it has changed, or a newer program made it.
    pub(super) fn from_text(name: &str, text: &str) -> Result<Self, Error> {
        let damaged = || Error::invalid(format!("the snapshot {name} is damaged: its manifest.toml is not what was written"));
        let (lines, seal) = text.split_once(SEAL).ok_or_else(damaged)?;
        if seal.trim().trim_matches('"') != Digest(Sha256::digest(lines.as_bytes()).into()).to_string() {
            return Err(damaged());
        }
        let value = |wanted: &str| {
            let values = lines.lines().filter_map(|line| line.split_once(" = "));
            values.filter(|(key, _)| *key == wanted).map(|(_, value)| value.trim_matches('"')).next().ok_or_else(damaged)
        };
        let number = |wanted: &str| value(wanted)?.parse::<u64>().map_err(|_| damaged());
        let time = |wanted: &str| number(wanted).map(|time| Timestamp(i64::try_from(time).unwrap_or(i64::MAX)));
        let digest = |wanted: &str| Digest::from_hex(value(wanted)?).ok_or_else(damaged);
        let manifest = Self {
            program: value("program")?.to_owned(),
            schema: value("schema")?.parse().map_err(|_| damaged())?,
            lineage: value("lineage")?.to_owned(),
            store: value("store").ok().map(ToOwned::to_owned),
            taken: time("taken_us")?,
            holdings: Holdings {
                orgs: number("orgs")?,
                accounts: number("accounts")?,
                images: number("images")?,
                versions: number("versions")?,
                bytes: number("blob_bytes")?,
                newest_upload: Some(time("newest_upload_us")?).filter(|time| time.0 > 0),
            },
            damaged: number("damaged")?,
            database_bytes: number("database_bytes")?,
            database_digest: digest("database_sha256")?,
            list_digest: digest("blobs_sha256")?,
        };
        if manifest.schema > db::newest_schema() {
            return Err(Error::invalid(format!(
                "the snapshot {name} was made by a newer imagewell ({}, schema {}; this one has {}): restore it with that one",
                manifest.program,
                manifest.schema,
                db::newest_schema()
            )));
        }
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back_and_a_flipped_bit_in_any_byte_is_noticed() {
        let digest = Digest([7; 32]);
        let holdings = Holdings { orgs: 1, accounts: 2, images: 3, versions: 4, bytes: 5, newest_upload: Some(Timestamp(6)) };
        let manifest = Manifest {
            program: "0.1.0".into(),
            schema: 8,
            lineage: "01a1fc2e-b3ff-7513-b584-b6649bfe564a".into(),
            store: Some("4a3d29f3-2e0d-4e4a-9a35-3a8a0f8f8a10".into()),
            taken: Timestamp(1_700_000_000_000_000),
            holdings,
            damaged: 0,
            database_bytes: 4096,
            database_digest: digest,
            list_digest: digest,
        };
        let text = manifest.to_text();
        assert_eq!(Manifest::from_text("a", &text).expect("reads"), manifest);
        let end = text.trim_end().len();
        for at in 0..end {
            let mut bent = text.clone().into_bytes();
            bent[at] ^= 1;
            let bent = String::from_utf8(bent).expect("ASCII");
            assert!(Manifest::from_text("a", &bent).is_err(), "byte {at} of:\n{bent}");
        }
        let older = Manifest { store: None, ..manifest.clone() };
        assert_eq!(Manifest::from_text("a", &older.to_text()).expect("reads"), older);
        let newer = Manifest { schema: 10_000, ..manifest };
        let refused = Manifest::from_text("a", &newer.to_text()).expect_err("newer").to_string();
        assert!(refused.contains("newer imagewell"), "{refused}");
    }
}
