use imagewell_core::model::{ActionKey, AppKey, ImageId};

use super::error::{Refusal, Result};

/// Parameters of a body, and bytes of their names and of their values in all. What a caller sends is held until it has proved itself.
pub(super) const BODY_COUNT_MAX: usize = 64;
const BODY_NAMES_BYTES_MAX: usize = BODY_COUNT_MAX * 256;
pub(super) const BODY_BYTES_MAX: usize = 64 * 1024;

/// Where a token may stand when it is not in the head.
pub(super) const CSRF_PARAMETER: &str = "_csrf";

/// The names that count. Other parts of a form are read past.
pub(super) fn is_parameter(name: &str) -> bool {
    ["appKey", "permission", "isWebix", "uuid", CSRF_PARAMETER].contains(&name)
}

pub(super) const TOO_MANY: &str = "the body has more than 64 parameters, or more than 64 KiB of them";

/// Scalar parameters from path, body and query. Path outweighs body, body outweighs query.
#[derive(Debug, Default)]
pub(super) struct Parameters {
    path: Vec<(String, String)>,
    body: Vec<(String, String)>,
    query: Vec<(String, String)>,
}

/// What an upload needs to know besides its bytes.
#[derive(Debug)]
pub(super) struct UploadParameters {
    pub(super) app_key: AppKey,
    pub(super) permission: ActionKey,
    pub(super) uuid: Option<ImageId>,
    pub(super) is_webix: bool,
}

impl Parameters {
    pub(super) fn new(path: Vec<(String, String)>, query: Option<&str>) -> Self {
        let query = form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect();
        Self { path, body: Vec::new(), query }
    }

    /// Adds a text part that stood before the file.
    pub(super) fn add_from_body(&mut self, name: String, value: String) -> Result<()> {
        self.body.push((name, value));
        let names: usize = self.body.iter().map(|(name, _)| name.len()).sum();
        let values: usize = self.body.iter().map(|(_, value)| value.len()).sum();
        if self.body.len() > BODY_COUNT_MAX || names > BODY_NAMES_BYTES_MAX || values > BODY_BYTES_MAX {
            return Err(Refusal::invalid(TOO_MANY));
        }
        Ok(())
    }

    /// The value that counts; empty ones count as absent.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        [&self.path, &self.body, &self.query]
            .into_iter()
            .flat_map(|source| source.iter().find(|(key, _)| key == name))
            .map(|(_, value)| value.as_str())
            .find(|value| !value.is_empty())
    }

    /// The token that stands in a parameter.
    pub(super) fn csrf(&self) -> Option<&str> {
        self.get(CSRF_PARAMETER)
    }

    /// Those of appKey and permission that are absent.
    pub(super) fn missing(&self) -> Vec<&'static str> {
        ["appKey", "permission"].into_iter().filter(|name| self.get(name).is_none()).collect()
    }

    /// Checks and converts what an upload needs.
    pub(super) fn for_upload(&self) -> Result<UploadParameters> {
        let missing = self.missing();
        let (Some(app_key), Some(permission)) = (self.get("appKey"), self.get("permission")) else {
            return Err(Refusal::missing(&missing));
        };
        for name in ["appKey", "permission", "uuid"] {
            for source in [&self.body, &self.query] {
                if source.iter().filter(|(key, _)| key == name).count() > 1 {
                    return Err(Refusal::invalid(format!("{name} is given twice")));
                }
            }
        }
        Ok(UploadParameters {
            app_key: AppKey::parse(app_key).map_err(imagewell_core::Error::from)?,
            permission: ActionKey::parse(permission).map_err(|error| Refusal::invalid(format!("permission: {error}")))?,
            uuid: self.get("uuid").map(ImageId::parse).transpose().map_err(imagewell_core::Error::from)?,
            is_webix: self.get("isWebix").is_some_and(is_true),
        })
    }
}

/// False when empty, `false` or numerically zero; anything else is true, as in the original.
fn is_true(text: &str) -> bool {
    let text = text.trim();
    !(text.is_empty() || text == "false" || text.parse::<f64>().is_ok_and(|number| number == 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn webix_is_asked_for_by_anything_but_nothing() {
        for text in ["", " ", "false", "0", "00", "0.0", "-0", "0e5"] {
            assert!(!is_true(text), "{text:?}");
        }
        for text in ["true", "1", "yes", "False", "no", "0x", "null"] {
            assert!(is_true(text), "{text:?}");
        }
    }

    #[test]
    fn path_outweighs_body_outweighs_query() {
        let mut parameters =
            Parameters::new(vec![("appKey".into(), "path".into())], Some("appKey=query&permission=query&uuid=query"));
        parameters.add_from_body("appKey".into(), "body".into()).expect("one");
        parameters.add_from_body("permission".into(), "body".into()).expect("another");
        assert_eq!(parameters.get("appKey"), Some("path"));
        assert_eq!(parameters.get("permission"), Some("body"));
        assert_eq!(parameters.get("uuid"), Some("query"));
        assert_eq!(parameters.get("isWebix"), None);
    }
}
