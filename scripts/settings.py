"What settings.ini says, and a command line of flags, for the scripts beside this file"
import argparse
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

def read_settings()->dict[str, str]: # key -> text
    "Name, version, address and requirements of the project"
    config = ConfigParser(delimiters=['='])
    config.read(ROOT/'settings.ini', encoding='utf-8')
    return dict(config['DEFAULT'])

def lines(
    key:str, # as 'requirements'
)->list[str]:
    "A setting that stands on several lines"
    return [line.strip() for line in read_settings()[key].splitlines() if line.strip()]

def read_flags(
    about:str, # what --help shows
    **flags:str, # name -> what it does
)->argparse.Namespace: # True for each flag that was given
    "Flags of a command; any other word is refused before the command does anything"
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, help in flags.items(): parser.add_argument(f'--{name}', action='store_true', help=help)
    return parser.parse_args()
