//! What a task's signature must be like, each rule with the sentence that a user gets.

use quote::{ToTokens, quote};
use syn::visit::Visit;
use syn::{
    FnArg, Lifetime, PatType, ReturnType, Safety, Signature, Type, TypeFnPtr, TypeImplTrait,
    TypeReference,
};

use crate::error::Errors;
use crate::task::{Kind, Task, owned_form, peeled, plain_name};

/// Adds all that is wrong with the signature to `errors`; `true` if nothing is.
pub(crate) fn signature(task: &Task, errors: &mut Errors) -> bool {
    let before = errors.count();
    place(task, errors);
    qualifiers(&task.signature, errors);
    for input in &task.signature.inputs {
        match input {
            FnArg::Receiver(receiver) => {
                errors.at(receiver, "a task is a free function: it cannot have `self`");
            }
            FnArg::Typed(typed) => pattern(typed, errors),
        }
    }
    for parameter in &task.parameters {
        match &parameter.kind {
            Kind::Owned(ty) => owned(ty, "a task argument", errors),
            Kind::Lent(reference) => lent(task, reference, errors),
        }
    }
    if let ReturnType::Type(_, ty) = &task.signature.output {
        match peeled(ty) {
            Type::Never(never) => errors.at(never, "a task must return to be acknowledged"),
            ty => owned(ty, "a task's result", errors),
        }
    }
    errors.count() == before
}

/// Whether its function is here or elsewhere, and all that it says is in keeping with that.
fn place(task: &Task, errors: &mut Errors) {
    let Some(elsewhere) = &task.options.elsewhere else {
        if task.body.is_empty() {
            let message = "a task needs a body; of one that runs elsewhere, say so: \
                           `#[task(name = \"…\", extern)]`";
            errors.at(&task.signature, message);
        }
        return;
    };
    if !task.body.is_empty() {
        let message = "a task that is `extern` runs elsewhere: write `;` in place of its body, or leave \
                       out `extern`";
        errors.at(&task.body, message);
    }
    if task.options.name.is_none() {
        let message = "a task that is `extern` needs its `name`, under which it is registered where it \
                       runs: `name = \"proj.tasks.add\"`";
        errors.at(elsewhere, message);
    }
    for (key, _) in &task.options.fields {
        if ["retries", "backoff", "timeout", "ack"]
            .iter()
            .any(|option| key == option)
        {
            let message = format!(
                "`{key}` is for the worker that runs the task, which does not see this declaration: say it \
                 where the task's function is"
            );
            errors.at(key, message);
        }
    }
}

fn qualifiers(signature: &Signature, errors: &mut Errors) {
    if let Some(token) = &signature.constness {
        errors.at(token, "a task cannot be `const`: it runs in a worker");
    }
    if let Safety::Unsafe(token) = &signature.safety {
        errors.at(token, "a task cannot be `unsafe`: the worker calls it");
    }
    if let Some(abi) = &signature.abi {
        errors.at(abi, "a task cannot be `extern`: the worker calls it");
    }
    if let Some(variadic) = &signature.variadic {
        errors.at(variadic, "a task cannot be variadic");
    }
    let generics = &signature.generics;
    if generics.type_params().next().is_some() || generics.const_params().next().is_some() {
        let message = "a task cannot be generic: its name stands for one function";
        errors.at(generics, message);
    } else if !generics.params.is_empty() {
        let message = "a task has no lifetime parameters: own the arguments, and write `&T` for what \
                       the worker lends";
        errors.at(generics, message);
    } else if let Some(clause) = &generics.where_clause {
        errors.at(clause, "a task cannot have a `where` clause");
    }
}

fn pattern(typed: &PatType, errors: &mut Errors) {
    if plain_name(&typed.pat).is_none() {
        let message = "a task's parameter needs a name: workers find arguments by it";
        errors.at(&typed.pat, message);
    }
    let is_cfg = |path: &syn::Path| path.is_ident("cfg") || path.is_ident("cfg_attr");
    if let Some(cfg) = typed.attrs.iter().find(|a| is_cfg(a.path())) {
        let message = "a task's parameters cannot be conditional: callers and workers must agree \
                       on them";
        errors.at(cfg, message);
    }
}

fn lent(task: &Task, reference: &TypeReference, errors: &mut Errors) {
    let and = reference.and_token;
    let elem = peeled(&reference.elem);
    if let Some(owned) = owned_form(reference) {
        let owned = readable(owned);
        errors.at(and, format!("a task argument must be owned: use `{owned}`"));
    } else if task.options.elsewhere.is_some() {
        let message = "a declaration has the arguments only, which travel in the message: leave out what \
                       the task's own worker lends it";
        errors.at(reference, message);
    } else if let Some(mutability) = &reference.mutability {
        let message = "a worker lends shared references: use `&T`, with a `Mutex` inside if it must \
                       change";
        errors.at(quote!(#and #mutability), message);
    } else if let Type::TraitObject(object) = elem {
        let message = "a worker lends values of a known type: wrap this in a struct, or lend an \
                       `&Arc<dyn …>`";
        errors.at(object, message);
    } else if let Some(lifetime) = reference.lifetime.as_ref().filter(|l| l.ident != "_") {
        let message = "a worker lends only while the task runs: leave the lifetime out";
        errors.at(lifetime, message);
    } else {
        owned(elem, "what a worker lends", errors);
    }
}

fn owned(ty: &Type, what: &'static str, errors: &mut Errors) {
    Owned { what, errors }.visit_type(ty);
}

/// Finds what borrows inside of a type, and what is no type by itself.
struct Owned<'e> {
    what: &'static str,
    errors: &'e mut Errors,
}

impl<'ast> Visit<'ast> for Owned<'_> {
    fn visit_type_reference(&mut self, reference: &'ast TypeReference) {
        let instead = owned_form(reference).map_or_else(
            || "remove the `&`".to_owned(),
            |owned| format!("use `{}`", readable(owned)),
        );
        let message = format!("{} must be owned: {instead}", self.what);
        self.errors.at(reference.and_token, message);
    }

    fn visit_lifetime(&mut self, lifetime: &'ast Lifetime) {
        if lifetime.ident != "static" {
            let message = format!(
                "{} must be owned: a type with the lifetime `{lifetime}` borrows",
                self.what
            );
            self.errors.at(lifetime, message);
        }
    }

    fn visit_type_impl_trait(&mut self, ty: &'ast TypeImplTrait) {
        let message = format!("{} needs a concrete type instead of `impl …`", self.what);
        self.errors.at(ty, message);
    }

    /// The references in `fn(&str)` are the pointer's own.
    fn visit_type_fn_ptr(&mut self, _: &'ast TypeFnPtr) {}
}

/// The type as a user would write it, not as tokens are printed.
fn readable(ty: Type) -> String {
    let text = ty.into_token_stream().to_string();
    [
        (" < ", "<"),
        (" >", ">"),
        (" :: ", "::"),
        (" ,", ","),
        ("& ", "&"),
    ]
    .into_iter()
    .fold(text, |text, (from, to)| text.replace(from, to))
}
