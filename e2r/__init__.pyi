"""The public names of e2r, by the module each comes from."""

from .adaptation.settings import AdaptationConfig as AdaptationConfig
from .analysis.gradient_check import gradient_check as gradient_check
from .api.adapting import adapt as adapt
from .api.evaluating import Evaluation as Evaluation
from .api.evaluating import evaluate as evaluate
from .api.examples import icp as icp
from .api.examples import make_example as make_example
from .api.examples import simulate as simulate
from .api.examples import target_error as target_error
from .api.models import load_model as load_model
from .api.registering import RegistrationResult as RegistrationResult
from .api.registering import find_cause as find_cause
from .api.registering import register as register
from .api.registering import view as view
from .api.tracking import Tracker as Tracker
from .api.training import train as train
from .config import NAMED_CONFIGS as NAMED_CONFIGS
from .config import EvaluationConfig as EvaluationConfig
from .config import OptimisationConfig as OptimisationConfig
from .config import ScenesConfig as ScenesConfig
from .config import TrainingConfig as TrainingConfig
from .datasets.case import Case as Case
from .datasets.case_folder import find_cases as find_cases
from .datasets.case_folder import read_case as read_case
from .datasets.case_folder import write_case as write_case
from .evaluation.models import Model as Model
from .geometry.poses import perturb as perturb
from .geometry.procrustes import procrustes as procrustes
from .geometry.surfaces import build_surface as build_surface
from .networks.build import NetworkConfig as NetworkConfig
from .pipeline import ProgramConfig as ProgramConfig
from .registration.global_search import SearchConfig as SearchConfig
from .registration.schedule import Schedule as Schedule
from .runtime.registry import plugin as plugin
from .simulation.simulator import SimulationConfig as SimulationConfig
from .types import Cloud as Cloud
from .types import Example as Example
from .types import Pose as Pose
from .types import Registration as Registration
from .types import Surface as Surface

__version__: str
