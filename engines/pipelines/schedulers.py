"""The schedulers of diffusers that stand for our samplers and schedules."""

import inspect

from engines.errors import BadRequest

# the scheduler's class for each sampler that diffusers has too, and what it is built with
SCHEDULERS = {
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm_2": ("KDPM2DiscreteScheduler", {}),
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}
# and where the pipeline's own scheduler is one of flow matching
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
FLOWS = {
    "euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "heun": ("FlowMatchHeunDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", FLOW),
    "unipc": ("UniPCMultistepScheduler", FLOW),
}
SPACINGS = {
    "linear": {},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "sgm_uniform": {"timestep_spacing": "trailing"},
}


def chosen(request, own, begun):
    """The scheduler that a request asks for, set up like the pipeline's `own`; `begun` says whether from a picture.

    Raises `BadRequest` for a sampler or a schedule that diffusers has not, or not for such a pipeline.
    """
    import diffusers

    if type(own).__name__.startswith("FlowMatch"):
        return _flow(request, own, begun)
    name, options = SCHEDULERS.get(request.sampler, ("", {}))
    spacing = SPACINGS.get(request.scheduler)
    kind = getattr(diffusers, name, None)
    if kind is None:
        raise BadRequest(f"A pipeline of diffusers has no {request.sampler}; choose among: {', '.join(SCHEDULERS)}.")
    if spacing is None or not spacing.keys() <= inspect.signature(kind).parameters.keys():
        raise BadRequest(f"{request.sampler} of diffusers knows no {request.scheduler} schedule; choose linear.")
    flows = own.config.get("prediction_type") == "flow_prediction"
    if flows and (spacing or "use_flow_sigmas" not in inspect.signature(kind).parameters):
        raise BadRequest("A flow is drawn by diffusers with dpmpp_2m or unipc and the linear schedule; choose those.")
    return kind.from_config(own.config, **options, **spacing)


def _flow(request, own, begun):
    import diffusers

    able = list(FLOWS)
    if own.config.get("use_dynamic_shifting"):  # by the size of the picture, which its own alone does alike
        able = ["euler"]
    elif begun:
        able = [name for name in FLOWS if hasattr(getattr(diffusers, FLOWS[name][0]), "scale_noise")]
    if request.sampler not in able or request.scheduler != "linear":
        where = " from a picture" if begun else ""
        raise BadRequest(
            f"This flow is drawn{where} by diffusers with the linear schedule and {' or '.join(able)}; choose those."
        )
    name, options = FLOWS[request.sampler]
    shift = {"flow_shift": own.config.get("shift", 1.0)} if options else {}
    return getattr(diffusers, name).from_config(own.config, **options, **shift)
