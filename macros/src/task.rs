//! The model: a function seen as a task.

use proc_macro2::{Ident, TokenStream};
use quote::format_ident;
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{
    Attribute, Error, FnArg, GenericArgument, Meta, Pat, PatType, PathArguments, Result,
    ReturnType, Signature, Token, Type, TypePath, TypeReference, Visibility,
};

use crate::options::Options;

pub(crate) struct Task {
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) visibility: Visibility,
    pub(crate) signature: Signature,
    pub(crate) options: Options,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) output: Output,
    /// Between its braces, and they themselves; empty where a `;` stands in its place.
    pub(crate) body: TokenStream,
}

pub(crate) struct Parameter {
    /// Its name, made up if it has none.
    pub(crate) ident: Ident,
    pub(crate) kind: Kind,
}

pub(crate) enum Kind {
    /// Travels in the message.
    Owned(Type),
    /// Is lent by the worker.
    Lent(TypeReference),
}

pub(crate) enum Output {
    Unit,
    Value(Type),
    /// Its name ends in `Result`.
    Fallible(Type),
}

/// A function whose body is nobody's business here, if it has one.
struct Function {
    attributes: Vec<Attribute>,
    visibility: Visibility,
    signature: Signature,
    body: TokenStream,
}

impl Parse for Function {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let attributes = input.call(Attribute::parse_outer)?;
        let visibility = input.parse()?;
        let signature = input.parse()?;
        input.parse::<Option<Token![;]>>()?;
        Ok(Self {
            attributes,
            visibility,
            signature,
            body: input.parse()?,
        })
    }
}

impl Task {
    pub(crate) fn parse(item: TokenStream, options: Options) -> Result<Self> {
        let function: Function = syn::parse2(item)
            .map_err(|error| Error::new(error.span(), "`#[task]` goes on a function"))?;
        let signature = function.signature;
        let typed = signature.inputs.iter().filter_map(|input| match input {
            FnArg::Typed(typed) => Some(typed),
            FnArg::Receiver(_) => None,
        });
        Ok(Self {
            attributes: function.attributes,
            visibility: function.visibility,
            options,
            parameters: typed
                .enumerate()
                .map(|(n, typed)| Parameter::new(n, typed))
                .collect(),
            output: Output::new(&signature.output),
            signature,
            body: function.body,
        })
    }

    /// The name that calls find it by, unless the options give another.
    pub(crate) fn function_name(&self) -> String {
        self.signature.ident.unraw().to_string()
    }

    /// The attributes that what stands beside the function must share with it.
    pub(crate) fn shared_attributes(&self) -> Vec<&Attribute> {
        self.attributes
            .iter()
            .filter(|attribute| is_shared(&attribute.meta))
            .collect()
    }

    /// All lines of the function's documentation.
    pub(crate) fn documentation(&self) -> impl Iterator<Item = &Attribute> {
        let is_text = |attribute: &&Attribute| matches!(&attribute.meta, Meta::NameValue(_));
        let docs = self.attributes.iter().filter(|a| a.path().is_ident("doc"));
        docs.filter(is_text)
    }

    /// The first paragraph of the function's documentation: further ones may hold examples, which would
    /// run twice.
    pub(crate) fn summary(&self) -> Vec<&Attribute> {
        let is_text = |attribute: &&Attribute| match &attribute.meta {
            Meta::NameValue(doc) => !matches!(&doc.value, syn::Expr::Lit(syn::ExprLit {
                lit: syn::Lit::Str(line), ..
            }) if line.value().trim().is_empty()),
            _ => false,
        };
        self.attributes
            .iter()
            .filter(|attribute| attribute.path().is_ident("doc"))
            .take_while(is_text)
            .collect()
    }
}

impl Parameter {
    fn new(position: usize, typed: &PatType) -> Self {
        let ident = plain_name(&typed.pat)
            .cloned()
            .unwrap_or_else(|| format_ident!("argument_{position}"));
        let kind = match peeled(&typed.ty) {
            Type::Reference(reference) => Kind::Lent(reference.clone()),
            _ => Kind::Owned((*typed.ty).clone()),
        };
        Self { ident, kind }
    }
}

impl Output {
    fn new(output: &ReturnType) -> Self {
        let ReturnType::Type(_, ty) = output else {
            return Self::Unit;
        };
        match peeled(ty) {
            Type::Path(TypePath { path, .. })
                if path
                    .segments
                    .last()
                    .is_some_and(|last| last.ident.to_string().ends_with("Result")) =>
            {
                Self::Fallible((**ty).clone())
            }
            Type::Tuple(tuple) if tuple.elems.is_empty() => Self::Unit,
            // These are refused later; until then, callers find what was probably meant.
            Type::ImplTrait(_) | Type::Never(_) => Self::Unit,
            Type::Reference(reference) => owned_form(reference).map_or(Self::Unit, Self::Value),
            _ => Self::Value((**ty).clone()),
        }
    }
}

/// `x` and `mut x`; no other pattern.
pub(crate) fn plain_name(pattern: &Pat) -> Option<&Ident> {
    match pattern {
        Pat::Ident(plain) if plain.by_ref.is_none() && plain.subpat.is_none() => Some(&plain.ident),
        _ => None,
    }
}

/// The type without the parentheses and invisible groups around it.
pub(crate) fn peeled(ty: &Type) -> &Type {
    match ty {
        Type::Group(group) => peeled(&group.elem),
        Type::Paren(paren) => peeled(&paren.elem),
        other => other,
    }
}

/// Whether the last segment of a path type is `name`.
pub(crate) fn is_named(ty: &Type, name: &str) -> bool {
    match peeled(ty) {
        Type::Path(TypePath {
            qself: None, path, ..
        }) => path.segments.last().is_some_and(|last| last.ident == name),
        _ => false,
    }
}

/// What to own in place of a reference that was hardly meant as the worker's state.
pub(crate) fn owned_form(reference: &TypeReference) -> Option<Type> {
    let elem = peeled(&reference.elem);
    match elem {
        Type::Slice(slice) => {
            let item = &slice.elem;
            Some(syn::parse_quote!(Vec<#item>))
        }
        _ if is_named(elem, "str") => Some(syn::parse_quote!(String)),
        _ if is_named(elem, "Path") => Some(syn::parse_quote!(PathBuf)),
        _ if is_named(elem, "String") || is_named(elem, "Vec") || is_named(elem, "PathBuf") => {
            Some(elem.clone())
        }
        _ => None,
    }
}

/// `T` and `E` of exactly `Result<T, E>`: in an alias, the first argument may be anything.
pub(crate) fn result_arguments(ty: &Type) -> Option<(&Type, &Type)> {
    let Type::Path(TypePath {
        qself: None, path, ..
    }) = peeled(ty)
    else {
        return None;
    };
    let last = path.segments.last().filter(|last| last.ident == "Result")?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else {
        return None;
    };
    let mut types = arguments.args.iter();
    match (types.next(), types.next(), types.next()) {
        (Some(GenericArgument::Type(value)), Some(GenericArgument::Type(error)), None) => {
            Some((value, error))
        }
        _ => None,
    }
}

fn is_shared(meta: &Meta) -> bool {
    const SHARED: [&str; 5] = ["cfg", "allow", "warn", "deprecated", "doc"];
    let is = |meta: &Meta, name| meta.path().is_ident(name);
    match meta {
        // The function's documentation is not the struct's, but `#[doc(hidden)]` is.
        Meta::NameValue(_) => is(meta, "deprecated"),
        Meta::List(list) if is(meta, "cfg_attr") => list
            .parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)
            .is_ok_and(|metas| metas.iter().skip(1).all(is_shared)),
        _ => SHARED.iter().any(|name| is(meta, name)),
    }
}
