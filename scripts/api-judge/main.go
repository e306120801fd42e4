// api-judge does two things as kube-apiserver does, with its own packages: it evaluates a ValidatingAdmissionPolicy on a
// request, and makes the OpenAPI document of a CustomResourceDefinition, from which kubectl explains its fields.
// Standard input: a JSON question a line; standard output: an answer a line: {"denied": [message, ...]}, or the document.
// Built by scripts/crd-server.sh.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"

	v1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	extensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/controller/openapi/builder"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/cel/environment"
)

type question struct {
	Definition  *extensions.CustomResourceDefinition `json:"definition"`
	Policy      v1.ValidatingAdmissionPolicy         `json:"policy"`
	User        string                               `json:"user"`
	Extra       map[string][]string                  `json:"extra"`
	Operation   string                               `json:"operation"`
	Resource    string                               `json:"resource"`
	Subresource string                               `json:"subresource"`
	Object      map[string]interface{}               `json:"object"`
	OldObject   map[string]interface{}               `json:"oldObject"`
	Namespace   *corev1.Namespace                    `json:"namespace"`
}

type answer struct {
	Denied []string `json:"denied"`
}

// compile makes the validator of one policy; expressions that do not compile deny every request.
func compile(policy *v1.ValidatingAdmissionPolicy) (validating.Validator, error) {
	compiler, err := cel.NewCompositedCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	if err != nil {
		return nil, err
	}
	declared := cel.OptionalVariableDeclarations{HasAuthorizer: true}
	var variables []cel.NamedExpressionAccessor
	for _, one := range policy.Spec.Variables {
		variables = append(variables, &validating.Variable{Name: one.Name, Expression: one.Expression})
	}
	compiler.CompileAndStoreVariables(variables, declared, environment.StoredExpressions)
	var matcher matchconditions.Matcher
	if len(policy.Spec.MatchConditions) > 0 {
		var conditions []cel.ExpressionAccessor
		for i := range policy.Spec.MatchConditions {
			conditions = append(conditions, (*matchconditions.MatchCondition)(&policy.Spec.MatchConditions[i]))
		}
		compiled := compiler.CompileCondition(conditions, declared, environment.StoredExpressions)
		matcher = matchconditions.NewMatcher(compiled, policy.Spec.FailurePolicy, "policy", "validate", policy.Name)
	}
	validations := make([]cel.ExpressionAccessor, len(policy.Spec.Validations))
	messages := make([]cel.ExpressionAccessor, len(policy.Spec.Validations))
	for i, one := range policy.Spec.Validations {
		validations[i] = &validating.ValidationCondition{Expression: one.Expression, Message: one.Message, Reason: one.Reason}
		if one.MessageExpression != "" {
			messages[i] = &validating.MessageExpressionCondition{MessageExpression: one.MessageExpression}
		}
	}
	return validating.NewValidator(
		compiler.CompileCondition(validations, declared, environment.StoredExpressions),
		matcher,
		compiler.CompileCondition(nil, declared, environment.StoredExpressions),
		compiler.CompileCondition(messages, cel.OptionalVariableDeclarations{}, environment.StoredExpressions),
		policy.Spec.FailurePolicy,
		nil,
	), nil
}

func object(fields map[string]interface{}) runtime.Object {
	if fields == nil {
		return nil
	}
	return &unstructured.Unstructured{Object: fields}
}

func judge(asked *question) (*answer, error) {
	validator, err := compile(&asked.Policy)
	if err != nil {
		return nil, err
	}
	about := asked.Object
	if about == nil {
		about = asked.OldObject
	}
	described := unstructured.Unstructured{Object: about}
	kind := described.GroupVersionKind()
	resource := schema.GroupVersionResource{Group: kind.Group, Version: kind.Version, Resource: asked.Resource}
	who := &user.DefaultInfo{Name: asked.User, Extra: asked.Extra}
	attributes := admission.NewAttributesRecord(object(asked.Object), object(asked.OldObject), kind, described.GetNamespace(),
		described.GetName(), resource, asked.Subresource, admission.Operation(asked.Operation), nil, false, who)
	versioned := &admission.VersionedAttributes{
		Attributes: attributes, VersionedObject: object(asked.Object), VersionedOldObject: object(asked.OldObject),
		VersionedKind: kind,
	}
	result := validator.Validate(context.Background(), resource, versioned, nil, asked.Namespace,
		celconfig.RuntimeCELCostBudget, nil)
	said := &answer{Denied: []string{}}
	for _, decision := range result.Decisions {
		if decision.Action != validating.ActionAdmit {
			said.Denied = append(said.Denied, decision.Message)
		}
	}
	return said, nil
}

func answerTo(asked *question) (interface{}, error) {
	if asked.Definition != nil {
		version := asked.Definition.Spec.Versions[0].Name
		return builder.BuildOpenAPIV3(asked.Definition, version, builder.Options{V2: false})
	}
	return judge(asked)
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		asked := &question{}
		said, err := interface{}(nil), json.Unmarshal(lines.Bytes(), asked)
		if err == nil {
			said, err = answerTo(asked)
		}
		if err == nil {
			err = json.NewEncoder(os.Stdout).Encode(said)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}
